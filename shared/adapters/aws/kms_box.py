"""Seals secrets with AWS KMS: the API's role may only encrypt, the executor's only decrypt."""

import base64
import binascii
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from shared.domain.errors import CannotOpen, InvalidInput, Misconfigured, Unavailable
from shared.domain.secret import Sealed, SealedFor, Secret

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

ALG = "KMS"
MAX_BYTES = 4096  # KMS's own limit for direct encryption
_FOR_ANOTHER = {"InvalidCiphertextException", "IncorrectKeyException"}
_OUR_MISTAKES = {"AccessDeniedException", "NotFoundException", "DisabledException", "KMSInvalidStateException"}


class KmsBox:
    """One KMS key. Whose secret it is goes along as the encryption context, which KMS checks when it decrypts."""

    def __init__(self, client: "KMSClient", key_id: str) -> None:
        self._client = client
        self._key_id = key_id

    def seal(self, secret: Secret, owner: SealedFor) -> Sealed:
        """Raises InvalidInput beyond 4,096 bytes, Unavailable, Misconfigured."""
        plaintext = secret.reveal().encode()
        if len(plaintext) > MAX_BYTES:
            raise InvalidInput(f"A secret may have at most {MAX_BYTES} bytes.")
        try:
            answer = self._client.encrypt(KeyId=self._key_id, Plaintext=plaintext, EncryptionContext=owner.as_context())
        except (ClientError, BotoCoreError) as error:
            raise _our_error(error) from error
        return Sealed(ciphertext=base64.b64encode(answer["CiphertextBlob"]).decode(), key_id=answer["KeyId"], alg=ALG)

    def open(self, sealed: Sealed, owner: SealedFor) -> Secret:
        """Raises CannotOpen when it was sealed for another owner or key, Unavailable, Misconfigured."""
        if sealed.alg != ALG:
            raise CannotOpen("The stored secret was encrypted with an unknown key.", key_id=sealed.key_id)
        try:
            blob = base64.b64decode(sealed.ciphertext, validate=True)
            # Our key, not the one that the row names: a row may have been written by anybody who can write rows.
            answer = self._client.decrypt(CiphertextBlob=blob, KeyId=self._key_id, EncryptionContext=owner.as_context())
        except binascii.Error as error:
            raise CannotOpen("The stored secret was changed.") from error
        except (ClientError, BotoCoreError) as error:
            raise _our_error(error) from error
        return Secret(answer["Plaintext"].decode())


def _our_error(error: ClientError | BotoCoreError) -> CannotOpen | Misconfigured | Unavailable:
    code = error.response.get("Error", {}).get("Code", "") if isinstance(error, ClientError) else type(error).__name__
    if code in _FOR_ANOTHER:
        return CannotOpen("The stored secret does not belong to this owner, or was changed.", aws_code=code)
    if code in _OUR_MISTAKES:
        return Misconfigured("The key for stored secrets cannot be used by this function.", aws_code=code)
    return Unavailable("The key service is not responding. Try again.", aws_code=code)
