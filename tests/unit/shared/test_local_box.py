import base64
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.adapters.local_box import LocalBox
from shared.domain.errors import CannotOpen, Misconfigured
from shared.domain.secret import SealedFor, Secret

OWNER = SealedFor(user_id="ada", kind="git_token", id="1")
KEYS = {"v2": os.urandom(32), "v1": os.urandom(32)}


def ring(**keys):
    return Secret(",".join(f"{name}:{base64.b64encode(key).decode()}" for name, key in keys.items()))


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_what_was_sealed_can_be_opened_by_its_owner(value):
    box = LocalBox(KEYS)

    assert box.open(box.seal(Secret(value), OWNER), OWNER) == Secret(value)


@pytest.mark.parametrize("change", [{"user_id": "grace"}, {"kind": "model_key"}, {"id": "2"}])
def test_a_copied_row_cannot_be_opened_for_another(change):
    box = LocalBox(KEYS)
    sealed = box.seal(Secret("x"), OWNER)

    with pytest.raises(CannotOpen):
        box.open(sealed, replace(OWNER, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"ciphertext": base64.b64encode(b"x" * 40).decode()},
        {"ciphertext": "no base64!"},
        {"ciphertext": ""},
        {"key_id": "local:v9"},
        {"alg": "KMS"},
    ],
)
def test_a_changed_row_cannot_be_opened(change):
    box = LocalBox(KEYS)

    with pytest.raises(CannotOpen):
        box.open(replace(box.seal(Secret("x"), OWNER), **change), OWNER)


def test_the_newest_key_seals_and_the_older_ones_still_open():
    old = LocalBox.from_ring(ring(v1=KEYS["v1"])).seal(Secret("x"), OWNER)
    box = LocalBox.from_ring(ring(**KEYS))

    assert box.open(old, OWNER) == Secret("x")
    assert box.seal(Secret("x"), OWNER).key_id == "local:v2"


def test_the_same_secret_never_looks_the_same_twice():
    box = LocalBox(KEYS)

    assert box.seal(Secret("x"), OWNER).ciphertext != box.seal(Secret("x"), OWNER).ciphertext


@pytest.mark.parametrize("wrong", ["", "v1", "v1:", "v1:short", "v1:" + "A" * 43, "v1:!!!"])
def test_a_key_ring_that_is_none_is_refused(wrong):
    with pytest.raises(Misconfigured, match="SECRETS_MASTER_KEYS"):
        LocalBox.from_ring(Secret(wrong))
