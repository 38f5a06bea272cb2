import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.redaction import MIN_SECRET_CHARS, REDACTED, Redactor
from shared.domain.secret import Secret
from shared.observability import RECENT_SECRETS, get_logger, register_secret

SECRETS = st.text(st.characters(codec="utf-8"), min_size=MIN_SECRET_CHARS, max_size=40)
FORMS = [
    str,
    lambda secret: quote(secret, safe=""),
    lambda secret: base64.b64encode(secret.encode()).decode(),
    lambda secret: base64.b64encode(f"x-access-token:{secret}".encode()).decode().rstrip("="),
]


@given(SECRETS, st.sampled_from(FORMS))
def test_a_registered_value_is_gone_in_every_form_it_travels_in(secret, form):
    assert Redactor([secret]).values(f"<{form(secret)}>") == f"<{REDACTED}>" or secret in f"<{REDACTED}>"


def test_a_secret_that_contains_another_leaves_no_rest():
    assert Redactor(["secret", "secret-and-more"]).values("secret-and-more") == REDACTED


def test_a_short_value_would_blank_out_ordinary_words():
    assert Redactor(["to"]).values("to be") == "to be"


@pytest.mark.parametrize(
    "token",
    [
        "ghp_" + "a" * 36,
        "github_pat_" + "A1" * 20,
        "sk-ant-api03-" + "x" * 24,
        "e2b_" + "0" * 40,
        "sb_secret_" + "k" * 20,
        "ac_" + "k" * 43,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "Bearer abcdefghijklmnopqrstuvwxyz",
    ],
)
def test_whatever_has_the_shape_of_a_token_is_gone_from_logs_but_not_from_diffs(token):
    redactor = Redactor()

    assert token.removeprefix("Bearer ") not in redactor.text(f"failed with {token}.")
    assert REDACTED in redactor.text(f"failed with {token}.")
    assert redactor.values(f"+ {token}") == f"+ {token}"


def test_credentials_in_a_url_are_gone_and_the_rest_of_it_stays():
    text = "fatal: https://x-access-token:very-secret@github.com/o/r not found"

    assert Redactor().text(text) == f"fatal: https://{REDACTED}@github.com/o/r not found"


@pytest.mark.parametrize(
    "text",
    [
        "an ordinary sentence",
        "sk-learn",
        "ghp_short",
        "ac_short",
        "https://github.com/o/r",
        "12:30@noon",
        "e2b_template",
    ],
)
def test_ordinary_text_stays_as_it_is(text):
    assert Redactor().text(text) == text


def test_data_is_cleaned_in_depth():
    data = {"a": ["the secret value", 1, None, {"b": ("the secret value",)}]}

    assert Redactor(["the secret value"]).data(data) == {"a": [REDACTED, 1, None, {"b": [REDACTED]}]}


def test_a_limited_redactor_forgets_the_oldest_value_only():
    redactor = Redactor(limit=2)
    for secret in ("first-secret", "second-secret", "third-secret", "second-secret"):
        redactor.add(secret)

    assert redactor.values("first-secret second-secret third-secret") == f"first-secret {REDACTED} {REDACTED}"


def test_a_log_line_hides_what_was_registered_for_good_however_many_came_after(capsys):
    register_secret(Secret("key-of-this-deployment"), lasting=True)
    for n in range(RECENT_SECRETS + 1):
        register_secret(Secret(f"token-of-user-{n:03}"))

    get_logger("test-redaction").warning("said", extra={"fact": f"key-of-this-deployment token-of-user-{n:03}"})

    assert f'"fact":"{REDACTED} {REDACTED}"' in capsys.readouterr().out
