"""What `make demo` and `make dev` take from the command line, .env and the environment, and what they do not."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.settings import (
    CLOUDS,
    MACHINE,
    NEVER_PROXIED,
    PROMPT,
    SCREEN,
    SettingsError,
    machine_environment,
    read_dotenv,
    read_settings,
)
from shared.domain.agents import PROFILES
from tests.foreign_variables import CANARY, foreign_variables

TRAP = "http://203.0.113.9:4711"
FOREIGN = foreign_variables(TRAP)
KEYS = {
    "supabase": {
        "SUPABASE_URL": "https://abc.supabase.example",
        "SUPABASE_PUBLISHABLE_KEY": f"{CANARY}-1",
        "SUPABASE_SECRET_KEY": f"{CANARY}-2",
        "JWT_SECRET": f"{CANARY}-3",
    },
    "e2b": {"E2B_API_KEY": f"{CANARY}-4"},
    **{each.provider: {each.key_variable: f"{CANARY}-{each.provider}"} for each in PROFILES.values()},
    "github": {"GITHUB_TOKEN": f"{CANARY}-5"},
}
ALL_KEYS = {name: value for values in KEYS.values() for name, value in values.items()}
# What make hands on: only from its own command line, which test_make_options.py holds.
OPTIONS = ("REPO", "PROMPT", "AGENT", "PR", "CLOUD", "HOST")


@pytest.fixture
def settings(tmp_path):
    """Reads the settings of an environment and the text of a .env file."""

    def read(environment=None, dotenv=None):
        file = tmp_path / ".env"
        if dotenv is not None:
            file.write_bytes(dotenv if isinstance(dotenv, bytes) else dotenv.encode())
        return read_settings({"PATH": "/bin", **(environment or {})}, file)

    return read


def test_without_anything_there_is_the_sample_task_of_claude_on_this_machine(settings):
    found = settings()

    assert (found.agents, found.repo, found.prompt, found.pull_request) == (("claude",), None, PROMPT, False)
    assert (found.clouds, found.host, found.announcements()) == ({}, "127.0.0.1", [])


@given(st.sets(st.sampled_from(sorted(FOREIGN.keys() - set(OPTIONS)))))
def test_no_variable_of_another_program_changes_anything(names):
    """Beside what every program needs of a machine, such as its language."""
    foreign = {name: FOREIGN[name] for name in names}
    plain, found = read_settings({"PATH": "/bin"}), read_settings({"PATH": "/bin", **foreign})

    assert (found.agents, found.repo, found.prompt, found.pull_request) == (
        plain.agents,
        plain.repo,
        plain.prompt,
        plain.pull_request,
    )
    assert (found.clouds, found.host, found.data, found.test_users) == ({}, plain.host, plain.data, {})
    assert found.machine.keys() - plain.machine.keys() <= {*MACHINE, *SCREEN}
    assert not [value for value in found.machine.values() if CANARY in value or TRAP in value]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_cloud_is_used_when_it_is_named_and_its_address_is_said(settings, cloud):
    environment = {**ALL_KEYS, "CLOUD": cloud, "AGENT": "claude"}
    if cloud == "e2b":
        environment["CLOUD"] = "e2b,anthropic"

    found = settings(environment)

    assert found.clouds[cloud] == KEYS[cloud]
    (line,) = [line for line in found.announcements() if line.startswith(CLOUDS[cloud].title)]
    assert CLOUDS[cloud].address(KEYS[cloud]) in line
    assert "https://" in line


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_cloud_that_is_not_named_is_not_used_and_it_says_how_it_would_be(settings, cloud):
    found = settings(KEYS[cloud])

    assert found.clouds == {}
    assert found.announcements() == [f"You have keys for real services; they are not used. CLOUD={cloud} uses them."]


@pytest.mark.parametrize(
    ("cloud", "variable", "address"),
    [
        ("anthropic", "ANTHROPIC_BASE_URL", "https://gateway.example.com/claude"),
        ("openai", "OPENAI_BASE_URL", "https://gateway.example.com/v1"),
        ("github", "GITHUB_API_URL", "https://github.example.com/api/v3"),
    ],
)
def test_another_address_of_a_cloud_is_the_one_that_is_said(settings, cloud, variable, address):
    found = settings({**KEYS[cloud], variable: address, "CLOUD": cloud})

    assert found.clouds[cloud][variable] == address
    assert address in found.announcements()[0]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_cloud_without_its_keys_is_refused_by_their_names(settings, cloud):
    with pytest.raises(SettingsError) as error:
        settings({"CLOUD": cloud})

    for variable in CLOUDS[cloud].required:
        assert variable in str(error.value)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"CLOUD": "aws"}, f"CLOUD must be one or more of {', '.join(CLOUDS)}"),
        ({"CLOUD": "E2B"}, "not E2B"),
        ({"AGENT": "gemini"}, "AGENT must be one or more of claude, codex"),
        ({"HOST": "localhost"}, "HOST must be one of 127.0.0.1, 0.0.0.0, ::"),
        ({"HOST": "192.0.2.1"}, "HOST must be one of"),
        ({**ALL_KEYS, "CLOUD": "e2b"}, "Write CLOUD=e2b,anthropic, or leave e2b out."),
        ({**ALL_KEYS, "CLOUD": "e2b", "AGENT": "codex"}, "Write CLOUD=e2b,openai"),
        ({**ALL_KEYS, "CLOUD": "anthropic,e2b", "PR": "1"}, "Write CLOUD=anthropic,e2b,github"),
        ({**ALL_KEYS, "CLOUD": "supabase", "SUPABASE_URL": "abc.supabase.example"}, "SUPABASE_URL must be an address"),
        ({**ALL_KEYS, "CLOUD": "supabase", "SUPABASE_URL": "https://"}, "SUPABASE_URL must be an address"),
        ({**ALL_KEYS, "CLOUD": "openai", "OPENAI_BASE_URL": "https://u:p@x.example"}, "OPENAI_BASE_URL must be an"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(settings, environment, sentence):
    with pytest.raises(SettingsError) as error:
        settings(environment)

    assert sentence in str(error.value)
    assert CANARY not in str(error.value)


def test_keys_are_never_shown(settings):
    found = settings({**ALL_KEYS, "CLOUD": ",".join(CLOUDS)})

    assert CANARY not in repr(found)
    assert CANARY not in "".join(found.announcements())


def test_words_may_have_spaces_and_stand_twice(settings):
    found = settings({**ALL_KEYS, "CLOUD": " openai, anthropic,openai,", "AGENT": "codex , claude"})

    assert (list(found.clouds), found.agents) == (["openai", "anthropic"], ("codex", "claude"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_host_says_what_it_opens(settings, host):
    (line,) = settings({"HOST": host}).announcements()

    assert line.startswith(f"HOST={host}: every computer that can reach this machine")


class TestDotenv:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("A=b", {"A": "b"}),
            ("export A=b", {"A": "b"}),
            ("A=b c", {"A": "b c"}),
            ("A='b c'", {"A": "b c"}),
            ('A="b c"', {"A": "b c"}),
            ("# A=b\n\nB=c # why", {"B": "c"}),
            ("A=b\r\nC=d\r\n", {"A": "b", "C": "d"}),
            ("A=$HOME/x", {"A": "$HOME/x"}),
            ("A=${HOME}", {"A": "${HOME}"}),
            ("A=$(touch owned)", {"A": "$(touch owned)"}),
            ("A=`touch owned`", {"A": "`touch owned`"}),
            ("A=x; touch owned", {"A": "x; touch owned"}),
            ("A=\nB=", {}),
            ("A", {}),
            ("A=ü", {"A": "ü"}),
        ],
    )
    def test_no_shell_reads_it(self, tmp_path, monkeypatch, text, expected):
        monkeypatch.chdir(tmp_path)
        (tmp_path / ".env").write_bytes(text.encode())

        assert read_dotenv(tmp_path / ".env") == expected
        assert [path.name for path in tmp_path.iterdir()] == [".env"]

    def test_it_may_say_all_that_the_command_line_may(self, settings):
        found = settings({}, "AGENT=codex\nCLOUD=openai\nOPENAI_API_KEY=k\nPR=1\nPROMPT=Do it\nREPO=/r\nHOST=0.0.0.0\n")

        assert (found.agents, found.clouds) == (("codex",), {"openai": {"OPENAI_API_KEY": "k"}})
        assert (found.pull_request, found.prompt, found.repo, found.host) == (True, "Do it", "/r", "0.0.0.0")

    def test_the_command_line_and_the_environment_win(self, settings):
        found = settings(
            {"AGENT": "claude", "ANTHROPIC_API_KEY": "mine"},
            "AGENT=codex\nCLOUD=anthropic\nANTHROPIC_API_KEY=theirs\n",
        )

        assert (found.agents, found.clouds) == (("claude",), {"anthropic": {"ANTHROPIC_API_KEY": "mine"}})

    def test_an_empty_variable_of_the_environment_does_not_hide_the_file(self, settings):
        assert settings({"AGENT": ""}, "AGENT=codex").agents == ("codex",)

    def test_test_users_are_opened_by_the_file_only(self, settings):
        opened = {"ENABLE_TEST_USERS": "true", "TEST_USERS_SECRET": "s"}

        assert settings(opened).test_users == {}
        assert settings({}, "ENABLE_TEST_USERS=true\nTEST_USERS_SECRET=s").test_users == opened

    def test_one_that_cannot_be_read_is_named(self, settings):
        with pytest.raises(SettingsError, match=r"\.env cannot be read"):
            settings({}, b"A=\xff\xfe")

    def test_a_virtual_environment_of_that_name_is_none(self, settings, tmp_path):
        (tmp_path / ".env").mkdir()

        assert settings({}) == settings({})


class TestTheMachine:
    def test_proxies_and_certificates_are_for_real_services_only(self, tmp_path):
        certificate = tmp_path / "ca.pem"
        certificate.touch()
        caller = {
            **{
                "https_proxy": "http://proxy.example:3128",
                "ALL_PROXY": "socks5://proxy.example",
                "no_proxy": "a.example",
            },
            **{"SSL_CERT_FILE": str(certificate), "REQUESTS_CA_BUNDLE": str(tmp_path / "missing.pem")},
        }

        offline, online = machine_environment(caller, online=False), machine_environment(caller, online=True)

        assert not offline.keys() & caller.keys()
        assert (online["https_proxy"], online["ALL_PROXY"]) == ("http://proxy.example:3128", "socks5://proxy.example")
        assert online["no_proxy"] == online["NO_PROXY"] == f"a.example,{NEVER_PROXIED}"
        assert online["SSL_CERT_FILE"] == str(certificate)
        assert "REQUESTS_CA_BUNDLE" not in online

    @pytest.mark.parametrize("online", [False, True])
    def test_no_aws_account_of_the_person_is_read(self, online):
        found = machine_environment(
            {"AWS_PROFILE": "work", "AWS_CONFIG_FILE": "/x", "HOME": "/home/ada"}, online=online
        )

        assert (found["AWS_CONFIG_FILE"], found["AWS_SHARED_CREDENTIALS_FILE"]) == (os.devnull, os.devnull)
        assert "AWS_PROFILE" not in found

    def test_a_folder_for_temporary_files_that_is_not_there_is_left_out(self, tmp_path):
        assert "TMPDIR" not in machine_environment({"TMPDIR": "/nonexistent"}, online=False)
        assert machine_environment({"TMPDIR": str(tmp_path)}, online=False)["TMPDIR"] == str(tmp_path)

    def test_there_is_always_a_path(self):
        assert machine_environment({}, online=False)["PATH"]
