"""What is taken of a user's preferences, what is refused, and what is said about it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.executor.agents import DRIVERS
from shared.domain.agents import AgentName
from shared.domain.errors import InvalidInput
from shared.domain.preferences import (
    KIB,
    MAX_CREDENTIALS_BYTES,
    MAX_ENV_BYTES,
    MAX_NAME_CHARS,
    MAX_PREFERENCES_BYTES,
    MAX_VALUE_BYTES,
    MAX_VARIABLES,
    check_preferences,
    gives_access,
    looks_secret,
    read_preferences,
)

LOGIN = {"claudeAiOauth": {"accessToken": "sk-ant-oat01-access", "refreshToken": "refresh-me", "expiresAt": 1}}
SUPERVISORS_OWN = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "IS_SANDBOX", "SANDBOX_JOB")


def wanting(agent=AgentName.CLAUDE, credentials=None, **env):
    return {agent.profile.section: {"env": env, "credentials": credentials}}


def env_of(preferences, agent=AgentName.CLAUDE):
    return {name: value.reveal() for name, value in read_preferences(agent, preferences)[0].env.items()}


def problems_of(preferences, agent=AgentName.CLAUDE):
    return read_preferences(agent, preferences)[1]


# --- what an agent gets


def test_each_agent_gets_its_own_variables_and_claude_its_credentials():
    preferences = wanting(credentials=LOGIN, A="1") | wanting(AgentName.CODEX, credentials=LOGIN, B="2")

    claude, codex = (read_preferences(agent, preferences)[0] for agent in (AgentName.CLAUDE, AgentName.CODEX))

    assert (env_of(preferences), env_of(preferences, AgentName.CODEX)) == ({"A": "1"}, {"B": "2"})
    assert json.loads(claude.credentials.reveal()) == LOGIN
    assert codex.credentials is None
    check_preferences(preferences)


def test_texts_stay_as_they_are_and_numbers_and_truths_become_their_json():
    env = env_of(wanting(TEXT=" ä\n", EMPTY="", WHOLE=10**400, HALF=0.5, YES=True, NO=False))

    assert env == {"TEXT": " ä\n", "EMPTY": "", "WHOLE": str(10**400), "HALF": "0.5", "YES": "true", "NO": "false"}


@pytest.mark.parametrize(
    "preferences",
    [
        {},
        {"theme": "dark", "notifications": [1, None]},
        {"claudeCode": None, "codex": None},
        {"claudeCode": {}, "codex": {"env": None, "credentials": "theirs"}},
        {"claudeCode": {"env": {}, "credentials": None, "model": 7}},
        {"claudeCode": {"credentials": {}}},
    ],
)
def test_what_is_absent_empty_or_somebody_elses_asks_for_nothing_and_is_no_problem(preferences):
    check_preferences(preferences)
    for agent in AgentName:
        found, problems = read_preferences(agent, preferences)
        assert (dict(found.env), found.credentials, found.model_access, problems) == ({}, None, (), ())


# --- what is refused


@pytest.mark.parametrize(
    ("preferences", "sentence"),
    [
        ([], "preferences must be an object."),
        ("text", "preferences must be an object."),
        ({"claudeCode": ["A"]}, "claudeCode must be an object."),
        ({"codex": {"env": "A=1"}}, "codex.env must be an object."),
        ({"claudeCode": {"credentials": "{}"}}, "claudeCode.credentials must be an object."),
        (wanting(A=None), "claudeCode.env.A must be a string, a number, true or false."),
        (wanting(A=["x"]), "claudeCode.env.A must be a string, a number, true or false."),
        (wanting(A="a\0b"), "claudeCode.env.A holds a value that cannot be stored"),
        (wanting(A="\ud800"), "claudeCode.env.A holds a value that cannot be stored"),
        (wanting(A=float("inf")), "claudeCode.env.A holds a value that cannot be stored"),
        (wanting(credentials={"a": "\0"}), "claudeCode.credentials hold a value that cannot be stored"),
        (wanting(A="x" * (MAX_VALUE_BYTES + 1)), "claudeCode.env.A is longer than 32 KiB."),
        (wanting(A="ä" * (MAX_VALUE_BYTES // 2 + 1)), "claudeCode.env.A is longer than 32 KiB."),
        (wanting(credentials={"a": "x" * MAX_CREDENTIALS_BYTES}), "claudeCode.credentials are longer than 32 KiB."),
        (
            wanting(AgentName.CODEX, PATH="/evil"),
            "codex.env.PATH cannot be set: the agent and its tools are found by it.",
        ),
    ],
)
def test_what_is_unsound_is_left_out_and_named_in_a_sentence(preferences, sentence):
    found, problems = zip(*(read_preferences(agent, preferences) for agent in AgentName), strict=True)

    assert [problem for each in problems for problem in each if problem.startswith(sentence)]
    assert all(not each.env and each.credentials is None for each in found)


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "Ä", "A\n", "a" * (MAX_NAME_CHARS + 1)])
def test_a_name_that_no_shell_could_say_is_refused(name):
    preferences = {"claudeCode": {"env": {name: "value"}}}

    assert env_of(preferences) == {}
    with pytest.raises(InvalidInput, match="must be a name of letters, digits and underscores, at most 128 long"):
        check_preferences(preferences)


def test_the_longest_name_is_a_name():
    assert env_of(wanting(**{"a" * MAX_NAME_CHARS: "1"})) == {"a" * MAX_NAME_CHARS: "1"}


def test_of_a_name_that_holds_a_value_only_the_beginning_is_told():
    [problem] = problems_of({"claudeCode": {"env": {"API_KEY=hunter2": ""}}})

    assert problem.startswith("claudeCode.env.API_KEY… must be a name")


def test_sound_variables_stay_when_others_beside_them_are_not():
    assert env_of(wanting(A="1", LD_PRELOAD="/x.so", B=[], C="3")) == {"A": "1", "C": "3"}


def test_there_is_room_for_so_many_variables_and_no_more():
    preferences = wanting(**{f"V{n}": n for n in range(MAX_VARIABLES + 2)})

    assert list(env_of(preferences)) == [f"V{n}" for n in range(MAX_VARIABLES)]
    assert [problem.split()[0] for problem in problems_of(preferences)] == [
        f"claudeCode.env.V{n}" for n in (MAX_VARIABLES, MAX_VARIABLES + 1)
    ]


def test_there_is_room_for_so_many_bytes_and_what_does_not_fit_makes_way_for_what_does():
    half = "x" * (MAX_ENV_BYTES // 2 - 1)
    preferences = wanting(A=half, B=half, C="", D="1")

    assert list(env_of(preferences)) == ["A", "B"]
    preferences = wanting(A=half, B=half[:-9], C="0123456789", D="1")
    assert list(env_of(preferences)) == ["A", "B", "D"]
    assert problems_of(preferences) == (
        f"claudeCode.env.C is too much: all variables together can have {MAX_ENV_BYTES // KIB} KiB.",
    )


@pytest.mark.parametrize(
    ("preferences", "sentence"),
    [
        (None, "preferences must be an object."),
        ({"theme": "x" * MAX_PREFERENCES_BYTES}, "preferences are longer than 128 KiB."),
        ({"theme": ["a\0"]}, "preferences hold a value that cannot be stored"),
        ({"a\0": 1}, "preferences hold a value that cannot be stored"),
        ({"theme": "\udfff"}, "preferences hold a value that cannot be stored"),
        ({"theme": float("nan")}, "preferences hold a value that cannot be stored"),
    ],
)
def test_the_whole_of_it_is_checked_where_it_comes_in(preferences, sentence):
    with pytest.raises(InvalidInput) as refused:
        check_preferences(preferences)
    assert str(refused.value).startswith(sentence)


def test_preferences_nested_too_deep_are_refused():
    nested = []
    for _ in range(100_000):
        nested = [nested]

    with pytest.raises(InvalidInput):
        check_preferences({"theme": nested})
    assert problems_of({"claudeCode": {"credentials": {"a": nested}}})


def test_what_only_looks_like_a_nul_is_a_text():
    check_preferences(wanting(A=r"\u0000"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["PATH", "A", "ENV"]), inner),
)
SECTION = st.fixed_dictionaries({}, optional={"env": JSON, "credentials": JSON}) | JSON


@given(st.fixed_dictionaries({}, optional={"claudeCode": SECTION, "codex": SECTION}) | JSON)
def test_whatever_stands_in_the_row_is_read_without_an_error(preferences):
    sound = True
    for agent in AgentName:
        found, problems = read_preferences(agent, preferences)
        assert all(isinstance(value.reveal().encode(), bytes) for value in found.values())
        sound = sound and not problems
    try:
        check_preferences(preferences)
    except InvalidInput:
        return
    assert sound


# --- names that are ours


@pytest.mark.parametrize(
    "name", [*SUPERVISORS_OWN, "LD_AUDIT", "DYLD_X", "BASH_ENV", "ENV", "CODEX_HOME", "BUN_OPTIONS"]
)
@pytest.mark.parametrize("agent", AgentName)
def test_names_on_which_our_running_of_the_agent_rests_cannot_be_set(agent, name):
    assert env_of(wanting(agent, **{name: "1"}), agent) == {}


@pytest.mark.parametrize("agent", AgentName)
def test_whatever_our_own_commands_set_cannot_be_set_or_replaces_them_all(agent):
    command = DRIVERS[agent].command(base_url="https://gateway.example")

    for name in (*command.env, *command.secret_env):
        assert gives_access(agent, name) or env_of(wanting(agent, **{name: "1"}), agent) == {}


@pytest.mark.parametrize("name", ["GIT_AUTHOR_NAME", "NODE_OPTIONS", "LANG", "TMPDIR", "PYTHONPATH", "E2B_API_KEY"])
def test_ordinary_names_can_be_set(name):
    assert env_of(wanting(**{name: "1"})) == {name: "1"}


# --- access to a model


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (AgentName.CLAUDE, "ANTHROPIC_API_KEY"),
        (AgentName.CLAUDE, "ANTHROPIC_AUTH_TOKEN"),
        (AgentName.CLAUDE, "ANTHROPIC_BASE_URL"),
        (AgentName.CLAUDE, "ANTHROPIC_CUSTOM_HEADERS"),
        (AgentName.CLAUDE, "ANTHROPIC_UNIX_SOCKET"),
        (AgentName.CLAUDE, "ANTHROPIC_BEDROCK_BASE_URL"),
        (AgentName.CLAUDE, "CLAUDE_CODE_USE_BEDROCK"),
        (AgentName.CLAUDE, "CLAUDE_CODE_USE_VERTEX"),
        (AgentName.CLAUDE, "CLAUDE_CODE_OAUTH_TOKEN"),
        (AgentName.CLAUDE, "CLAUDE_CODE_API_BASE_URL"),
        (AgentName.CLAUDE, "CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR"),
        (AgentName.CODEX, "OPENAI_API_KEY"),
        (AgentName.CODEX, "CODEX_API_KEY"),
        (AgentName.CODEX, "CODEX_ACCESS_TOKEN"),
        (AgentName.CODEX, "OPENAI_BASE_URL"),
        (AgentName.CODEX, "CODEX_CA_CERTIFICATE"),
        *(
            (agent, name)
            for agent in AgentName
            for name in ("https_proxy", "ALL_PROXY", "NODE_TLS_REJECT_UNAUTHORIZED")
        ),
    ],
)
def test_a_key_or_an_address_is_an_access_of_the_users_own(agent, name):
    assert read_preferences(agent, wanting(agent, A="1", **{name: "x"}))[0].model_access == (name,)


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (AgentName.CLAUDE, "ANTHROPIC_MODEL"),
        (AgentName.CLAUDE, "ANTHROPIC_DEFAULT_OPUS_MODEL"),
        (AgentName.CLAUDE, "CLAUDE_CODE_MAX_OUTPUT_TOKENS"),
        (AgentName.CLAUDE, "AWS_SECRET_ACCESS_KEY"),
        (AgentName.CLAUDE, "OPENAI_API_KEY"),
        (AgentName.CODEX, "ANTHROPIC_API_KEY"),
        (AgentName.CODEX, "NO_PROXY"),
    ],
)
def test_other_names_leave_the_deployments_access_as_it_is(agent, name):
    found, _ = read_preferences(agent, wanting(agent, **{name: "x"}))

    assert (list(found.env), found.model_access) == ([name], ())


def test_a_credentials_file_is_an_access_and_an_empty_field_is_none():
    assert read_preferences(AgentName.CLAUDE, wanting(credentials=LOGIN))[0].model_access == ("credentials",)
    found, problems = read_preferences(AgentName.CLAUDE, wanting(credentials={}, ANTHROPIC_BASE_URL=" ", A=""))
    assert (list(found.env), found.model_access, problems) == (["A"], (), ())


# --- what is a secret


@pytest.mark.parametrize("name", ["MY_TOKEN", "API_KEY", "APIKEY", "db_password", "SSH_KEYS", "X_AUTH", "accessToken"])
def test_names_of_secrets_are_told(name):
    assert looks_secret(name)


@pytest.mark.parametrize("name", ["AWS_REGION", "GIT_AUTHOR_NAME", "MAX_TOKENS", "KEYBOARD", "expiresAt", "AUTH_URL"])
def test_names_of_ordinary_things_are_told(name):
    assert not looks_secret(name)


def test_values_of_secret_names_and_the_credentials_tokens_are_secrets_and_nothing_else():
    preferences = wanting(credentials=LOGIN | {"scopes": ["user:inference"]}, MY_TOKEN="abc", AWS_REGION="us-east-1")

    found, _ = read_preferences(AgentName.CLAUDE, preferences)

    tokens = {"sk-ant-oat01-access", "refresh-me"}
    assert {each.reveal() for each in found.secrets()} == {"abc"} | tokens
    assert {each.reveal() for each in found.values()} == {"abc", "us-east-1"} | tokens


def test_a_private_key_is_known_by_its_lines_too_as_a_diff_has_them():
    pem = "-----BEGIN KEY-----\nMIIBVgIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END KEY-----\n"

    found, _ = read_preferences(AgentName.CLAUDE, wanting(DEPLOY_KEY=pem))

    assert [each.reveal() for each in found.secrets()] == [pem, "MIIBVgIBADANBgkq", "hkiG9w0BAQEFAASC"]


def test_nothing_of_it_is_printed_by_accident():
    assert "abc" not in repr(read_preferences(AgentName.CLAUDE, wanting(credentials=LOGIN, A="abc")))
