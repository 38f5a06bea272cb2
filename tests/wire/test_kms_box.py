"""What the box asks of KMS, and what it makes of the answers."""

import base64
from dataclasses import replace

import boto3
import pytest
from botocore.stub import Stubber

from shared.adapters.aws.kms_box import MAX_BYTES, KmsBox
from shared.domain.errors import CannotOpen, InvalidInput, Misconfigured, Unavailable
from shared.domain.secret import Sealed, SealedFor, Secret

KEY = "alias/git-tokens"
KEY_ARN = "arn:aws:kms:eu-central-1:123456789012:key/1"
OWNER = SealedFor(user_id="ada", kind="git_token", id="1")
CONTEXT = {"user_id": "ada", "kind": "git_token", "id": "1"}
SEALED = Sealed(ciphertext=base64.b64encode(b"blob").decode(), key_id=KEY_ARN, alg="KMS")


@pytest.fixture
def kms():
    client = boto3.client("kms", "eu-central-1", aws_access_key_id="test", aws_secret_access_key="test")
    with Stubber(client) as stub:
        yield stub
        stub.assert_no_pending_responses()


def test_a_secret_is_sealed_with_its_owner_as_encryption_context(kms):
    expected = {"KeyId": KEY, "Plaintext": b"token", "EncryptionContext": CONTEXT}
    kms.add_response("encrypt", {"CiphertextBlob": b"blob", "KeyId": KEY_ARN}, expected)

    assert KmsBox(kms.client, KEY).seal(Secret("token"), OWNER) == SEALED


def test_a_secret_is_opened_with_our_key_whatever_the_row_says(kms):
    expected = {"KeyId": KEY, "CiphertextBlob": b"blob", "EncryptionContext": CONTEXT}
    kms.add_response("decrypt", {"Plaintext": b"token", "KeyId": KEY_ARN}, expected)

    assert KmsBox(kms.client, KEY).open(replace(SEALED, key_id="arn:of:somebody"), OWNER) == Secret("token")


def test_a_secret_larger_than_kms_takes_is_refused_before_asking(kms):
    with pytest.raises(InvalidInput):
        KmsBox(kms.client, KEY).seal(Secret("x" * (MAX_BYTES + 1)), OWNER)


@pytest.mark.parametrize("change", [{"alg": "AES-256-GCM"}, {"ciphertext": "no base64!"}])
def test_a_row_that_is_not_ours_is_refused_before_asking(kms, change):
    with pytest.raises(CannotOpen):
        KmsBox(kms.client, KEY).open(replace(SEALED, **change), OWNER)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("InvalidCiphertextException", CannotOpen),
        ("IncorrectKeyException", CannotOpen),
        ("AccessDeniedException", Misconfigured),
        ("NotFoundException", Misconfigured),
        ("DisabledException", Misconfigured),
        ("KMSInternalException", Unavailable),
        ("ThrottlingException", Unavailable),
    ],
)
def test_a_refusal_becomes_our_error(kms, code, kind):
    kms.add_client_error("decrypt", code, "detail of the key")

    with pytest.raises(kind) as raised:
        KmsBox(kms.client, KEY).open(SEALED, OWNER)
    assert "detail" not in str(raised.value)
