"""What a user wants an agent to find in its environment: the column `users.preferences`.

    {<section of an agent>: {"env": {NAME: value}, "credentials": {…} | null}}

The profiles (shared/domain/agents) name the sections, and say which agents take credentials. Other keys belong to other
programs. The frontend may write the row itself, so nothing in it is trusted: the API refuses what is unsound, the
executor leaves it out. Sentences about problems name variables, never their values.
The variables of a project (`settings.env`, see shared/domain/project.py) obey the same rules.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from shared.domain.agents import PROFILES, AgentName
from shared.domain.errors import InvalidInput
from shared.domain.secret import Secret

KIB = 1024
MAX_PREFERENCES_BYTES = 128 * KIB  # as the column's own check has it
MAX_VARIABLES = 100  # of one agent; each is looked for in all that its run logs
MAX_NAME_CHARS = 128
MAX_VALUE_BYTES = 32 * KIB  # a private key has 3; execve(2) takes 128 KiB of one
MAX_ENV_BYTES = 64 * KIB  # of one agent, names and all: every program that it starts inherits them
MAX_CREDENTIALS_BYTES = 32 * KIB  # a login has less than 1

_NO_JSON = "a value that cannot be stored, such as NUL or an infinite number."
_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{MAX_NAME_CHARS - 1}}}")

# Names (patterns of fnmatch) that a user cannot set, and why: with them a run would not be the run that we started.
# Those of each agent hold for all of them: a project has one environment for whichever agent works on it.
RESERVED = {
    "PATH": "the agent and its tools are found by it",
    "HOME": "the agent's sessions and credentials are kept there",
    "USER": "it names the sandbox's own user",
    "LOGNAME": "it names the sandbox's own user",
    "SHELL": "it names the sandbox's own shell",
    "LD_*": "it puts other code into every program",
    "DYLD_*": "it puts other code into every program",
    "BASH_ENV": "every shell would run it first",
    "ENV": "every shell would run it first",
    "SHELLOPTS": "it changes how every shell reads its commands",
    "BASHOPTS": "it changes how every shell reads its commands",
    "SANDBOX_JOB": "the processes of a run are found by it",
    "IS_SANDBOX": "it tells the agent that it is in a sandbox",
    **{name: reason for each in PROFILES.values() for name, reason in each.reserved_variables.items()},
    **{name: "it is set for every run" for each in PROFILES.values() for name in each.env},
}

# Names by which a user brings access to any agent's model; each profile has its own besides. With any of them the run
# does not get the deployment's key: it must never be sent to an address of the user's choice, and which of two accesses
# an agent takes is not defined.
_ROUTES = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),  # all requests go there
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"),  # who is trusted to be the provider
    "NODE_TLS_REJECT_UNAUTHORIZED",  # every server is, then
)
CREDENTIALS = "credentials"

# AUTH but not AUTHOR, TOKEN but not MAX_TOKENS; and what only says where or which it is, like NEXTAUTH_URL, is none
_SECRET_NAME = re.compile(
    r"(KEYS?|TOKEN|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|CREDENTIALS?|AUTH|AUTHORIZATION)(?![A-Z])"
    r"(?!.*_(URL|URI|HOST|DOMAIN|PORT|PATH|FILE|DIR|SOCK|NAME|TYPE|PROVIDER)$)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPreferences:
    """What one agent is to be given: variables, and the text of its credentials file.

    `model_access` names what of it is the user's own access to a model; the deployment's is not given then.
    """

    env: Mapping[str, Secret]
    credentials: Secret | None = None
    model_access: tuple[str, ...] = ()

    def values(self) -> Iterator[Secret]:
        """Everything that belongs in no log."""
        yield from self.env.values()
        yield from self._tokens()

    def secrets(self) -> Iterator[Secret]:
        """What belongs in no result either. Not all values do: without every `us-east-1` a diff would be wrong."""
        for name, value in self.env.items():
            if looks_secret(name):
                yield value
                yield from map(Secret, _key_lines(value.reveal()))
        yield from self._tokens()

    def _tokens(self) -> Iterator[Secret]:
        if self.credentials:
            yield from map(Secret, _secret_texts(json.loads(self.credentials.reveal())))

    def over(self, agent: AgentName, project: Mapping[str, Secret]) -> "AgentPreferences":
        """These and, below them, the variables of the run's project.

        An access to a model is all the user's or all the project's: parts of both would be neither.
        """
        of_project = {name for name in project if gives_access(agent, name)}
        below = {name: value for name, value in project.items() if not (self.model_access and name in of_project)}
        access = self.model_access or tuple(of_project)
        return AgentPreferences(env={**below, **self.env}, credentials=self.credentials, model_access=access)


NO_PREFERENCES = AgentPreferences(env={})


def read_preferences(agent: AgentName, preferences: object) -> tuple[AgentPreferences, tuple[str, ...]]:
    """The sound part of what the user wants for this agent, and a sentence for each thing that was left out of it."""
    section = agent.profile.section
    problems: list[str] = []
    found = _object(_object(preferences, "preferences", problems).get(section), section, problems)
    env = _env(agent, found.get("env"), f"{section}.env", problems)
    where = f"{section}.{CREDENTIALS}"
    takes_credentials = agent.profile.credentials_file is not None
    credentials = _credentials(found.get(CREDENTIALS), where, problems) if takes_credentials else None
    access = [name for name in env if gives_access(agent, name)] + ([CREDENTIALS] if credentials else [])
    return AgentPreferences(env=env, credentials=credentials, model_access=tuple(access)), tuple(problems)


def read_env(agent: AgentName, wanted: object, where: str) -> tuple[Mapping[str, Secret], tuple[str, ...]]:
    """The sound part of the variables that stand at `where`, and a sentence for each that was left out."""
    problems: list[str] = []
    return _env(agent, wanted, where, problems), tuple(problems)


def check_preferences(preferences: object) -> None:
    """Raises InvalidInput with the first reason why they cannot be stored, or not be given whole to every agent."""
    if not isinstance(preferences, dict):
        raise InvalidInput("preferences must be an object.")
    if len(_json(preferences, "preferences hold").encode()) > MAX_PREFERENCES_BYTES:
        raise InvalidInput(f"preferences are longer than {MAX_PREFERENCES_BYTES // KIB} KiB.")
    for agent in AgentName:
        for problem in read_preferences(agent, preferences)[1]:
            raise InvalidInput(problem)


def gives_access(agent: AgentName, name: str) -> bool:
    """Whether a user who sets this variable brings their own access to the agent's model."""
    profile = agent.profile
    return _matches(name, (*_ROUTES, *profile.access_variables)) and not _matches(name, profile.model_choice_variables)


def looks_secret(name: str) -> bool:
    """Whether a thing of this name (`API_KEY`, `accessToken`) should be kept out of a diff."""
    return _SECRET_NAME.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()) is not None


def _object(value: object, what: str, problems: list[str]) -> Mapping[str, Any]:
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    problems.append(f"{what} must be an object.")
    return {}


def _env(agent: AgentName, wanted: object, where: str, problems: list[str]) -> dict[str, Secret]:
    env: dict[str, Secret] = {}
    room = MAX_ENV_BYTES
    for name, value in _object(wanted, where, problems).items():
        this = f"{where}.{_shown(name)}"
        try:
            text = _text(name, value)
        except InvalidInput as problem:
            problems.append(f"{this} {problem}")
            continue
        if gives_access(agent, name) and not text.strip():
            continue  # an empty field of a form: not set
        size = len(name) + len(text.encode())
        if len(env) == MAX_VARIABLES:
            problems.append(f"{this} is one too many: an agent can have {MAX_VARIABLES} variables.")
        elif size > room:
            problems.append(f"{this} is too much: all variables together can have {MAX_ENV_BYTES // KIB} KiB.")
        else:
            room -= size
            env[name] = Secret(text)
    return env


def _text(name: str, value: object) -> str:
    """A variable's value as text. Raises InvalidInput with the rest of a sentence that begins with its name."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"must be a name of letters, digits and underscores, at most {MAX_NAME_CHARS} long.")
    for pattern, reason in RESERVED.items():
        if fnmatchcase(name, pattern):
            raise InvalidInput(f"cannot be set: {reason}.")
    if not isinstance(value, str | int | float):
        raise InvalidInput("must be a string, a number, true or false.")
    as_json = _json(value, "holds")
    text = value if isinstance(value, str) else as_json
    if len(text.encode()) > MAX_VALUE_BYTES:
        raise InvalidInput(f"is longer than {MAX_VALUE_BYTES // KIB} KiB.")
    return text


def _credentials(value: object, where: str, problems: list[str]) -> Secret | None:
    """The text of the credentials file; None where it is empty. `where` begins the sentence about a problem."""
    wanted = _object(value, where, problems)
    try:
        text = _json(wanted, f"{where} hold")
    except InvalidInput as problem:
        problems.append(str(problem))
        return None
    if len(text.encode()) > MAX_CREDENTIALS_BYTES:
        problems.append(f"{where} are longer than {MAX_CREDENTIALS_BYTES // KIB} KiB.")
        return None
    return Secret(text) if wanted else None


def _json(value: object, what: str) -> str:
    """The value as JSON. Raises InvalidInput, a sentence that begins with `what`, where no database can hold it."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, RecursionError):
        raise InvalidInput(f"{what} {_NO_JSON}") from None
    if "\\u0000" in text.replace("\\\\", ""):
        raise InvalidInput(f"{what} {_NO_JSON}")
    return text


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _shown(name: str) -> str:
    """A name for a sentence; of one that is none, how it begins: some write `KEY=value` where a name belongs."""
    if _NAME.fullmatch(name):
        return name
    begin = re.match(r"[A-Za-z0-9_]{0,40}", name)
    return f"{begin[0] if begin else ''}…"


def _key_lines(text: str) -> Iterator[str]:
    """The lines of a private key one by one, as a diff has them: each behind a sign of its own."""
    lines = [line.strip() for line in text.splitlines()]
    if len(lines) > 1:
        yield from (line for line in lines if not line.startswith("-----"))


def _secret_texts(value: object) -> Iterator[str]:
    """The tokens inside a JSON value, told by their keys."""
    todo: list[tuple[str, object]] = [("", value)]
    while todo:
        key, item = todo.pop()
        if isinstance(item, dict):
            todo += item.items()
        elif isinstance(item, list):
            todo += [(key, each) for each in item]
        elif isinstance(item, str) and looks_secret(key):
            yield item
