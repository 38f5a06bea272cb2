"""Keys as their makers issue them are known by their shape, and what only looks a little like one is not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.programs.possible_secrets import keys_in
from shared.domain.agents import AgentName
from shared.domain.key_shapes import KEY_SHAPES
from shared.domain.redaction import Redactor

WORD = "a1B2c3D4" * 10  # joined here, so that no scanner of this repository takes them for keys
KEYS = {
    "a GitHub token": ["ghp_" + WORD[:36], "ghs_" + WORD[:40]],
    "a fine-grained GitHub token": ["github_pat_" + WORD[:22] + "_" + WORD[:59]],
    "a GitLab token": ["glpat-" + WORD[:20]],
    "an Anthropic key": ["sk-ant-" + "api03-" + WORD],
    "an OpenAI key": ["sk-" + WORD[:48], "sk-proj-" + WORD, "sk-svcacct-" + WORD],
    "an AWS access key": ["AKIA" + "ABCDEFGH12345678", "ASIA" + "ABCDEFGH12345678"],
    "a Google API key": ["AIza" + WORD[:35]],
    "a Slack token": ["xoxb-" + "123456789012-" + WORD[:24]],
    "a Stripe key": ["sk_live_" + WORD[:24]],
    "an npm token": ["npm_" + WORD[:36]],
    "an E2B key": ["e2b_" + "0123456789abcdef" * 2 + "01234567"],
    "a Supabase secret key": ["sb_secret_" + WORD[:31]],
    "a key of this service": ["ac_" + WORD[:43]],
    "a private key": ["-----BEGIN " + kind + "PRIVATE KEY-----" for kind in ("", "RSA ", "OPENSSH ", "ENCRYPTED ")],
}
HARMLESS = (
    "ghp_" + "short",
    "the task-" + WORD[:20],
    "AKIA" + "abcdefgh12345678",
    "XAKIA" + "ABCDEFGH12345678",
    "-----BEGIN PUBLIC KEY-----",
    "-----BEGIN CERTIFICATE-----",
    "sk-" + "loading-spinner-container-of-a-page",
    "risk-" + "averse-and-otherwise-sensible-people",
    "ac_" + WORD[:20],
)


def kinds_of(text):
    patterns = {kind: re.compile(shape.encode()) for kind, shape in KEY_SHAPES.items()}
    return [kind for kind, _, _ in keys_in(text.encode(), patterns)]


def test_every_shape_has_an_example_or_comes_from_an_agents_profile():
    assert KEYS.keys() | {agent.profile.key_shape[0] for agent in AgentName} == KEY_SHAPES.keys()


@pytest.mark.parametrize("agent", AgentName)
@given(data=st.data())
def test_a_key_to_an_agents_model_is_warned_of_in_a_diff_and_redacted_in_a_log(agent, data):
    name, shape = agent.profile.key_shape
    key = data.draw(st.from_regex(re.compile(shape, re.ASCII), fullmatch=True))

    assert name in kinds_of(f"KEY='{key}'")
    assert key not in Redactor().text(f"KEY='{key}'")


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, keys in KEYS.items() for key in keys])
def test_a_key_has_one_kind_also_in_the_middle_of_a_line(kind, key):
    for text in (key, f"KEY='{key}'\n", f"https://x:{key}@y"):
        assert kinds_of(text) == [kind]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_key_is_none(text):
    assert kinds_of(text) == []


@pytest.mark.parametrize("text", ["sk-", "ghp_", "a ", "-----BEGIN A ", "xoxb-", "github_pat_"])
def test_no_text_makes_a_shape_slow(text):
    """A million repetitions of what a shape begins with; a square of that would take hours."""
    assert kinds_of(text * 1_000_000) == kinds_of(text * 1000)
