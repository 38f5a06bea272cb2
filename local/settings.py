"""What the person at the keyboard has chosen for `make demo` and `make dev`.

Three sources: make's command line (handed on as environment variables), the file `.env` of this project, and, for the
keys of a cloud that CLOUD names, the environment. The environment of a developer's shell belongs to other programs too:
nothing else in it is used, and none of it reaches a program of the stack.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import dotenv_values

from local.processes import PROJECT_ROOT
from shared.domain.agents import DEFAULT_AGENT, PROFILES, AgentName

DOTENV = PROJECT_ROOT / ".env"
LOCAL = PROJECT_ROOT / ".local"  # ignored by git; `make clean` removes it
PROMPT = "Add a short section to the README that explains how to run the tests."
HOSTS = ("127.0.0.1", "0.0.0.0", "::")  # noqa: S104 - chosen by a person who is told what that opens

Values = Mapping[str, str]


class SettingsError(Exception):
    """A setting cannot be used; the text says what to change."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """A real service that CLOUD may name. `address` is where it is; `effect` is what using it means, as a sentence."""

    title: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    address: Callable[[Values], str]
    effect: str


def _model_cloud(provider: str) -> Cloud:
    """The service of the models of all agents that name this provider."""
    profiles = [profile for profile in PROFILES.values() if profile.provider == provider]
    first = profiles[0]
    return Cloud(
        first.provider_title,
        tuple(dict.fromkeys(each.key_variable for each in profiles)),
        tuple(dict.fromkeys(name for each in profiles for name in (each.base_url_variable, each.model_variable))),
        lambda values: values.get(first.base_url_variable, first.base_url),
        f"{' and '.join(each.title for each in profiles)} "
        "sends your prompt and what it reads of the repository there, at your expense.",
    )


CLOUDS: Mapping[str, Cloud] = {
    "supabase": Cloud(
        "Supabase",
        ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY", "JWT_SECRET"),
        (),
        lambda values: values["SUPABASE_URL"],
        "The demo user and all tasks are stored there. No reaper runs here: it would touch other runs of that project.",
    ),
    "e2b": Cloud(
        "E2B",
        ("E2B_API_KEY",),
        ("E2B_TEMPLATE", "E2B_DOMAIN"),
        lambda values: f"https://api.{values.get('E2B_DOMAIN', 'e2b.app')}",
        "Sandboxes run there, at your team's expense.",
    ),
    **{profile.provider: _model_cloud(profile.provider) for profile in PROFILES.values()},
    "github": Cloud(
        "GitHub",
        ("GITHUB_TOKEN",),
        ("GITHUB_API_URL",),
        lambda values: values.get("GITHUB_API_URL", "https://api.github.com"),
        "The repository is cloned from there with your token, and pull requests are opened there.",
    ),
}
URLS = ("SUPABASE_URL", "GITHUB_API_URL", *(profile.base_url_variable for profile in PROFILES.values()))
TEST_USERS = ("ENABLE_TEST_USERS", "TEST_USERS_SECRET")

# What any program needs of this machine.
MACHINE = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "TERM", "COLORTERM")
SCREEN = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "CI")  # how a terminal is written to
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
NEVER_PROXIED = "127.0.0.1,localhost,::1"
# Files in the person's home that boto3 and git read in any case; one that is closed to us or broken stops them.
NO_FILES_OF_HOME = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """What a person may choose of a stack. `data` is the folder of its database, keys and sandboxes.

    `clouds` holds the variables of each real service that is used. `machine` is the environment for the programs of the
    stack, `caller` the whole environment that we were started with: for pip and the person's own git, which need its
    proxies and credentials.
    """

    data: Path = LOCAL / "data"
    agents: tuple[str, ...] = (DEFAULT_AGENT,)
    clouds: Mapping[str, Values] = field(default_factory=dict, repr=False)
    host: str = HOSTS[0]
    test_users: Values = field(default_factory=dict, repr=False)
    postgres_programs: str | None = None
    machine: Values = field(default_factory=lambda: machine_environment(os.environ, online=False), repr=False)
    caller: Values = field(default_factory=lambda: dict(os.environ), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(StackSettings):
    """All that `make demo` and `make dev` are told. `unused` names the clouds that there are keys for."""

    repo: str | None = None
    prompt: str = PROMPT
    pull_request: bool = False
    unused: tuple[str, ...] = ()

    def announcements(self) -> list[str]:
        """A sentence for each real service that is used, with its address, and for what the host opens."""
        lines = [
            f"{CLOUDS[name].title} at {CLOUDS[name].address(values)} is used. {CLOUDS[name].effect}"
            for name, values in self.clouds.items()
        ]
        if self.host != HOSTS[0]:
            lines.append(
                f"HOST={self.host}: every computer that can reach this machine can reach the API, the Supabase gateway "
                "and the repositories. The API gives a token to every caller who knows a user's id. PostgreSQL, SQS, "
                f"the sandboxes and the model listen on {HOSTS[0]} only."
            )
        if self.unused:
            lines.append(
                f"You have keys for real services; they are not used. CLOUD={','.join(self.unused)} uses them."
            )
        return lines


def read_settings(environment: Values | None = None, dotenv: Path | None = None) -> Settings:
    """The settings of this start. Raises SettingsError.

    `dotenv` is the .env file; by default this project's, or the one that LOCAL_DOTENV names (tests: none).
    """
    caller = dict(os.environ if environment is None else environment)
    file = read_dotenv(dotenv or Path(caller.get("LOCAL_DOTENV") or DOTENV))
    given = {**file, **{name: value for name, value in caller.items() if value}}
    agents = _words("AGENT", given.get("AGENT") or DEFAULT_AGENT, tuple(AgentName))
    clouds = {name: _cloud(name, given) for name in _words("CLOUD", given.get("CLOUD", ""), tuple(CLOUDS))}
    _check_together(clouds, agents, pull_request=given.get("PR") == "1")
    host = given.get("HOST") or HOSTS[0]
    if host not in HOSTS:
        raise SettingsError(f"HOST must be one of {', '.join(HOSTS)}, not {host}.")
    return Settings(
        agents=agents,
        repo=given.get("REPO"),
        prompt=given.get("PROMPT", "").strip() or PROMPT,
        pull_request=given.get("PR") == "1",
        host=host,
        data=Path(os.path.expanduser(given.get("LOCAL_DATA") or LOCAL / "data")).resolve(),  # noqa: PTH111 - never raises
        clouds=clouds,
        unused=tuple(name for name, cloud in CLOUDS.items() if name not in clouds and _has_keys(cloud, given)),
        test_users={name: file[name] for name in TEST_USERS if file.get(name)},
        postgres_programs=given.get("EMBEDDED_PG_BIN"),
        machine=machine_environment(caller, online=bool(clouds)),
        caller=caller,
    )


def machine_environment(caller: Values, *, online: bool) -> dict[str, str]:
    """What the programs of the stack get of the caller's environment: nothing that another program's setting is.

    Where real services are used (`online`), also the way to them: proxies, never for this machine itself, and
    certificates, as far as the files exist.
    """
    kept = {name: caller[name] for name in (*MACHINE, *SCREEN) if caller.get(name)} | NO_FILES_OF_HOME
    if not os.path.isdir(kept.get("TMPDIR", os.sep)):  # noqa: PTH112 - any text may stand there
        del kept["TMPDIR"]
    if online:
        kept |= {name: caller[name] for name in PROXIES if caller.get(name)}
        kept |= {name: caller[name] for name in CERTIFICATES if os.path.exists(caller.get(name, ""))}  # noqa: PTH110
        excepted = ",".join(filter(None, [caller.get("no_proxy") or caller.get("NO_PROXY"), NEVER_PROXIED]))
        kept |= {"no_proxy": excepted, "NO_PROXY": excepted}
    return {"PATH": os.defpath} | kept


def enter(environment: Values) -> None:
    """Let this program and all that it starts go on with `environment` only, and with three open standard streams.

    Of a stream that the caller has closed, the next socket would get the number, and be taken for it.
    """
    os.environ.clear()
    os.environ.update(environment)
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(number, True)
    os.close(number)


def read_dotenv(file: Path = DOTENV) -> dict[str, str]:
    """The variables of a .env file, in the format of python-dotenv: no shell reads it, so nothing in it is executed.

    Raises SettingsError when it cannot be read.
    """
    try:
        found = dotenv_values(file, interpolate=False) if file.exists() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {error}.") from error
    return {name: value for name, value in found.items() if value}


def _words(name: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The words of a list separated by commas, each once."""
    words = tuple(dict.fromkeys(word for part in text.split(",") if (word := part.strip())))
    if unknown := [word for word in words if word not in known]:
        raise SettingsError(f"{name} must be one or more of {', '.join(known)}, separated by commas, not {unknown[0]}.")
    return words


def _cloud(name: str, given: Values) -> dict[str, str]:
    cloud = CLOUDS[name]
    if missing := [variable for variable in cloud.required if not given.get(variable)]:
        raise SettingsError(
            f"CLOUD={name} needs {' and '.join(missing)}, in your environment or in the file .env of this project."
        )
    values = {variable: given[variable] for variable in (*cloud.required, *cloud.optional) if given.get(variable)}
    for variable in set(values) & set(URLS):
        address = urlsplit(values[variable])
        if address.scheme not in ("http", "https") or not address.hostname or address.username:
            raise SettingsError(f"{variable} must be an address such as https://example.com, without a user name.")
    return values


def _has_keys(cloud: Cloud, given: Values) -> bool:
    return all(given.get(variable) for variable in cloud.required)


def _check_together(clouds: Mapping[str, Values], agents: tuple[str, ...], *, pull_request: bool) -> None:
    """Sandboxes at E2B cannot reach this machine, so they need what they use to be elsewhere, too."""
    if "e2b" not in clouds:
        return
    needed = [AgentName(agent).profile.provider for agent in agents] + (["github"] if pull_request else [])
    if missing := [name for name in needed if name not in clouds]:
        raise SettingsError(
            "CLOUD=e2b: sandboxes at E2B cannot reach the stand-ins on this machine. "
            f"Write CLOUD={','.join([*clouds, *missing])}, or leave e2b out."
        )
