"""Seals secrets with AES-256-GCM under keys from the environment: for a laptop, never for production."""

import base64
import binascii
import json
import os
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.domain.errors import CannotOpen, Misconfigured
from shared.domain.secret import Sealed, SealedFor, Secret

ALG = "AES-256-GCM"
NONCE_BYTES = 12  # the size that NIST SP 800-38D recommends for GCM


class LocalBox:
    """A ring of named 32-byte keys. The first seals; all of them open, so that keys can be changed one by one."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._ciphers = {f"local:{name}": AESGCM(key) for name, key in keys.items()}
        self._sealing_key = next(iter(self._ciphers))

    @classmethod
    def from_ring(cls, ring: Secret) -> "LocalBox":
        """`ring` is `name:base64,name:base64`, newest first. Raises Misconfigured when it is anything else."""
        try:
            pairs = [entry.strip().split(":", 1) for entry in ring.reveal().split(",")]
            keys = {name: base64.b64decode(key, validate=True) for name, key in pairs}
        except (ValueError, binascii.Error):
            keys = {}
        if not keys or any(len(key) != 32 for key in keys.values()):
            raise Misconfigured("SECRETS_MASTER_KEYS must be name:key[,name:key] with base64 keys of 32 bytes.")
        return cls(keys)

    def seal(self, secret: Secret, owner: SealedFor) -> Sealed:
        """Encrypt for `owner` under the newest key."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._ciphers[self._sealing_key].encrypt(nonce, secret.reveal().encode(), _bound_to(owner))
        return Sealed(ciphertext=base64.b64encode(nonce + sealed).decode(), key_id=self._sealing_key, alg=ALG)

    def open(self, sealed: Sealed, owner: SealedFor) -> Secret:
        """Raises CannotOpen when it was sealed for another owner or by an unknown key."""
        cipher = self._ciphers.get(sealed.key_id)
        if cipher is None or sealed.alg != ALG:
            raise CannotOpen("The stored secret was encrypted with an unknown key.", key_id=sealed.key_id)
        try:
            raw = base64.b64decode(sealed.ciphertext, validate=True)
            return Secret(cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], _bound_to(owner)).decode())
        except (InvalidTag, ValueError) as error:
            raise CannotOpen("The stored secret does not belong to this owner, or was changed.") from error


def _bound_to(owner: SealedFor) -> bytes:
    return json.dumps(owner.as_context(), sort_keys=True).encode()
