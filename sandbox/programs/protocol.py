"""What the executor and the programs in a sandbox tell each other: one dataclass per request and per report.

A request is a JSON file in the run's folder, or an argument; a report is one line of JSON on standard output. Both
sides use this module and its codec, `to_json` and `from_json`. The fakes of the tests use it, too.

The executor uploads its own version of the programs, so both sides usually have the same version of this module. A job
may be older than the program that looks at it, though: a field that is added later needs a default.

What a report says is data of the sandbox: its types are checked, its contents are not to be trusted.
"""

# The codec evaluates the annotations, so they are written as Python 3.9 can evaluate them.
import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NoReturn, Optional, TypeVar, Union, get_args, get_origin, get_type_hints

JOB_FILE = "job.json"  # in a job's folder
# Files with secrets in a job's folder. The supervisor deletes the first two before the job runs, clone.py the third.
SECRET_ENV_FILE, SECRET_HOME_FILE, TOKEN_FILE = "secret_env.json", "secret_home.json", "git_token"
TAKEN_AT_START, TAKEN_BY_THE_JOB = (SECRET_ENV_FILE, SECRET_HOME_FILE), (TOKEN_FILE,)
# Variables in which wipe_secrets.py gets the secrets, each a JSON list of texts.
OUR_SECRETS, USERS_SECRETS = "OUR_SECRETS", "USERS_SECRETS"

# Codes of a Failure that every program may report; the others stand at the program's report.
DISK_FULL, FAILED = "disk_full", "failed"

STDERR_TAIL_BYTES = 4096
DEFAULT_CHUNK_BYTES = 256 * 1024  # base64 makes a third more of it, in one answer of envd

T = TypeVar("T")
Texts = dict[str, str]


class ProtocolError(ValueError):
    """A text is not the message that it should be. The text says which field is wrong, and never its value."""


# --- jobs: supervisor.py ------------------------------------------------------------------------------------------

JobUser = Literal["agent", "root"]
JobPhase = Literal["absent", "starting", "running", "ended", "crashed"]
JobEnd = Literal["exit", "signal", "timeout", "idle", "output_limit", "stop", "crash"]


@dataclass(frozen=True)
class JobRequest:
    """A job to run: `job.json` in its folder.

    `cwd` is relative to the user's home. `secret_env_file`, `secret_home_file` and `stdin` name files in the job's
    folder: a JSON object of variables, one of paths below the home and their texts, and the standard input.
    """

    argv: tuple[str, ...]  # as root: the name of one of our programs, and its arguments
    user: JobUser
    timeout_s: float
    max_output_bytes: int  # stdout and stderr together
    stop_grace_s: float  # between SIGTERM and SIGKILL
    cwd: str = "."
    env: Texts = field(default_factory=dict)
    secret_env_file: Optional[str] = None
    secret_home_file: Optional[str] = None
    stdin: Optional[str] = None  # None: /dev/null
    idle_timeout_s: Optional[float] = None  # without output for so long
    niceness: int = 0

    def __post_init__(self) -> None:
        """Raises ProtocolError."""
        if not self.argv:
            raise ProtocolError("argv must name a program.")
        if any("/" in name for name in self.files):
            raise ProtocolError("secret_env_file, secret_home_file and stdin must be names of files.")
        limits = (self.timeout_s, self.max_output_bytes, self.stop_grace_s, self.idle_timeout_s or 0, self.niceness)
        if min(limits) < 0:
            raise ProtocolError("No limit may be negative.")

    @property
    def secret_files(self) -> tuple[str, ...]:
        """The names of its files with secrets."""
        return tuple(name for name in (self.secret_env_file, self.secret_home_file) if name)

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files in the job's folder that it needs."""
        return self.secret_files + ((self.stdin,) if self.stdin else ())


@dataclass(frozen=True)
class UsageLog:
    """A file of the agent's program: the newest below the home that matches `pattern`. Its last line with `word`."""

    pattern: str
    word: str

    def __post_init__(self) -> None:
        """Raises ProtocolError."""
        parts = self.pattern.split("/")
        if "" in parts or ".." in parts or "\0" in self.pattern or not self.word:
            raise ProtocolError("A usage log has a word, and a pattern below the home.")


@dataclass(frozen=True)
class LookRequest:
    """What a look at a job shows: stdout from `offset` on, after up to `wait_s` of waiting for the job's end."""

    offset: int = 0
    max_bytes: int = DEFAULT_CHUNK_BYTES
    wait_s: float = 0
    usage_log: Optional[UsageLog] = None

    def __post_init__(self) -> None:
        """Raises ProtocolError."""
        if self.offset < 0 or self.max_bytes < 1 or self.wait_s < 0:
            raise ProtocolError("offset and wait_s must not be negative, and max_bytes must be at least 1.")


@dataclass(frozen=True)
class JobReport:
    """What is known of a job. `chunk` is its stdout up to `offset`: whole lines, unless the job is over or one line
    fills it. Times are seconds since the epoch, ages are seconds."""

    state: JobPhase  # crashed: its supervisor died, and `stop` ends what is left of it
    exit_code: Optional[int] = None  # 128 + n for signal n
    ended_by: Optional[JobEnd] = None
    started_at: Optional[float] = None
    ended_at: Optional[float] = None
    heartbeat_age_s: Optional[float] = None
    idle_s: Optional[float] = None
    output_bytes: int = 0  # of stdout
    offset: int = 0  # what to ask for next
    chunk: bytes = b""
    stderr_tail: str = ""
    programs: str = ""  # the SHA-256 of the archive that answers
    usage_line: Optional[str] = None  # of the usage log that was asked for

    @property
    def absent(self) -> bool:
        return self.state == "absent"

    @property
    def crashed(self) -> bool:
        return self.state == "crashed"

    @property
    def interrupted(self) -> bool:
        """It was ended neither by itself nor by the executor: memory was short, or its sandbox was restarted."""
        return self.ended_by in ("crash", "signal")

    @property
    def over(self) -> bool:
        return self.state in ("ended", "crashed")

    @property
    def more(self) -> bool:
        """Whether there is more output to read."""
        return bool(self.chunk) and self.offset < self.output_bytes


# --- reports of jobs that are programs of ours --------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """A program could not do its work. Codes beside DISK_FULL and FAILED: see the report that it has instead."""

    error: str  # the executor may meet a code that it does not know
    message: str = ""
    ok: Literal[False] = False


@dataclass(frozen=True)
class CloneRequest:
    """What clone.py is asked. Paths are relative to the run's folder, unless said otherwise."""

    url: str  # https://github.com/owner/name, or another http(s) address; file:// for tests
    branch: str
    base_git: str  # where the pristine bare clone goes
    work_tree: str  # where the agent's clone goes, relative to the agent's home
    timeout_s: float  # for everything together
    depth: Optional[int] = None  # commits of history to fetch; None: all
    token_file: Optional[str] = None  # root-only file with the access token; gone before git starts
    max_bytes: Optional[int] = None  # of the pristine clone
    commit: Optional[str] = None  # where to begin instead of at the branch's tip, wherever it can be had
    patch_file: Optional[str] = None  # changes to begin with, as git diff wrote them, in the agent's clone only


@dataclass(frozen=True)
class SetupScript:
    """The commit's own setup script: its text, or why it cannot be run."""

    script: Optional[str] = None
    problem: Optional[str] = None


@dataclass(frozen=True)
class CloneReport:
    """The clones are made. A Failure has auth, not_found, branch_not_found, patch_conflict, timeout or refused."""

    base_commit: str
    branch: str
    work_tree: str
    bytes: int  # of the pristine clone
    took_s: float
    real_work_tree: Optional[str] = None  # the same place without symbolic links, where there are any on the way
    setup: Optional[SetupScript] = None
    ok: Literal[True] = True


@dataclass(frozen=True)
class CollectLimits:
    """What is too much for a result. The commit itself is always whole."""

    files: int = 1000  # with their contents
    file_bytes: int = 10 * 1024 * 1024  # of one side of a file
    total_bytes: int = 50_000_000  # of all contents
    row_bytes: int = 1_000_000  # of one side of a file that stands in the result itself; larger ones lie apart
    rows_bytes: int = 8_000_000  # of all those, which travel to the database in one request
    diff_bytes: int = 1_000_000
    patch_bytes: int = 10_000_000


@dataclass(frozen=True)
class CollectRequest:
    """What collect.py is asked. Paths are relative to the run's folder, unless said otherwise."""

    base_git: str  # the pristine clone made by clone.py
    base_commit: str
    work_tree: str  # relative to the agent's home
    message: str
    author_name: str
    author_email: str
    out: str  # where the result goes, a Collected
    limits: CollectLimits = CollectLimits()
    date_s: Optional[int] = None  # of the commit, since the epoch; None: now
    contents_out: Optional[str] = None  # the folder for contents that are too large for `out`; None: OUT.contents
    secret_shapes: Texts = field(default_factory=dict)  # regular expressions, by what they find: "a GitHub token"


@dataclass(frozen=True)
class CollectReport:
    """The result is written. A Failure has work_tree_missing, work_tree_unsafe or base_missing."""

    bytes: int  # of the result
    sha256: str  # of the result
    files: int  # how many changed
    tree: str  # git's id of all of them
    ok: Literal[True] = True


FileStatus = Literal["added", "modified", "deleted", "renamed", "type_changed"]
FileEncoding = Literal["utf-8", "base64", "apart"]


@dataclass(frozen=True)
class ChangedFile:
    """A changed file. `before` and `after` are its sides in `encoding`, None for one that does not exist.

    The encoding "apart" says that they are ids of contents, which lie in files of their own.
    """

    path: str
    previous_path: Optional[str]
    status: FileStatus
    mode: Optional[str]
    previous_mode: Optional[str]
    before: Optional[str]
    after: Optional[str]
    encoding: FileEncoding
    size: int
    truncated: bool


@dataclass(frozen=True)
class Content:
    """A content that lies apart: git's id of it, and its size in bytes."""

    id: str
    size: int


@dataclass(frozen=True)
class PossibleSecret:
    """Where something that looks like a key stands now and did not before."""

    path: str
    line: int
    kind: str


@dataclass(frozen=True)
class Collected:
    """The result of collect.py: everything about the change. `commit` is None and the rest empty when there is none."""

    base_commit: str
    commit: Optional[str]
    tree: str
    base_tree: str
    diff: str  # to read
    diff_truncated: bool
    patch: Optional[str]  # for `git apply` and `git am`; None: too long, or impossible
    patch_truncated: bool
    changed_files: tuple[str, ...]
    files: tuple[ChangedFile, ...]
    contents: tuple[tuple[Content, ...], ...]  # of each file in `contents_out`: 0, 1, …
    possible_secrets: tuple[PossibleSecret, ...]
    additions: int
    deletions: int
    warnings: tuple[str, ...]
    files_changed: int


@dataclass(frozen=True)
class WipeRequest:
    """What wipe_secrets.py is asked. `files` lie below the agent's home and hold nothing but secrets."""

    files: tuple[str, ...]
    work_tree: str  # relative to the agent's home


@dataclass(frozen=True)
class WipeReport:
    """The secrets are gone from `changed` files."""

    changed: int
    ok: Literal[True] = True


CloseVerb = Literal["close", "build", "check"]


@dataclass(frozen=True)
class CloseReport:
    """Whether the sandbox is closed; else the problems, as sentences. `closed` is what was changed."""

    ok: bool
    problems: tuple[str, ...]
    closed: tuple[str, ...]


# --- the codec ----------------------------------------------------------------------------------------------------


def to_json(message: object) -> str:
    """The message as one line of JSON, in ASCII. Raises ValueError for a number that JSON does not have."""
    return json.dumps(to_value(message), allow_nan=False)


def to_value(message: object) -> Any:
    """The message as `json` writes it: a dataclass is an object, bytes are base64."""
    if dataclasses.is_dataclass(message) and not isinstance(message, type):
        return {each.name: to_value(getattr(message, each.name)) for each in dataclasses.fields(message)}
    if isinstance(message, Mapping):
        return {name: to_value(item) for name, item in message.items()}
    if isinstance(message, (tuple, list)):
        return [to_value(item) for item in message]
    if isinstance(message, bytes):
        return base64.b64encode(message).decode("ascii")
    return message


def from_json(kind: type[T], text: Union[str, bytes], name: str = "The message") -> T:
    """The message of this kind that `to_json` made; `name` is for the error. Raises ProtocolError for anything else."""
    return from_value(kind, parse(text, name), name)


def parse(text: Union[str, bytes], name: str = "The message") -> object:
    """The value that stands there. Raises ProtocolError for what is not JSON."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ProtocolError(f"{name} is not JSON.") from None  # never its text: it may be a secret


def from_value(kind: type[T], value: object, name: str = "The message") -> T:
    """The message of this kind that `to_value` made. Raises ProtocolError."""
    message: T = _read(kind, value, name)
    return message


def report_from_value(kind: type[T], value: object) -> Union[T, Failure]:
    """The report of this kind, or the Failure that came instead. Raises ProtocolError for anything else."""
    is_failure = isinstance(value, dict) and value.get("ok") is False
    return from_value(Failure, value, "The report") if is_failure else from_value(kind, value, "The report")


def _refuse_constant(name: str) -> NoReturn:
    raise ProtocolError(f"{name} is not a number.")


def _read(kind: Any, value: object, name: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _read_object(kind, value, name)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Union:  # only ever Optional
        return None if value is None else _read(arguments[0], value, name)
    if origin is Literal:
        if any(value == allowed and type(value) is type(allowed) for allowed in arguments):
            return value
    elif origin is tuple and isinstance(value, list):
        return tuple(_read(arguments[0], item, f"{name}[{n}]") for n, item in enumerate(value))
    elif origin is dict and isinstance(value, dict):
        return {key: _read(arguments[1], item, f"an item of {name}") for key, item in value.items()}
    elif kind is bytes and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise ProtocolError(f"{name} is not base64.") from None
    elif (kind is float and type(value) is int) or type(value) is kind:
        return value
    raise ProtocolError(f"{name} has the wrong type or value.")


def _read_object(kind: Any, value: object, name: str) -> Any:
    if not isinstance(value, dict):
        raise ProtocolError(f"{name} must be an object.")
    types = _types_of(kind)
    if unknown := sorted(value.keys() - types.keys()):
        raise ProtocolError(f"{name} has the unknown field {unknown[0][:50]!r}.")
    if missing := sorted(_required(kind) - value.keys()):
        raise ProtocolError(f"{name} lacks the field {missing[0]!r}.")
    return kind(**{each: _read(types[each], item, each) for each, item in value.items()})


@cache
def _types_of(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


@cache
def _required(kind: Any) -> frozenset[str]:
    missing = dataclasses.MISSING
    fields = dataclasses.fields(kind)
    return frozenset(each.name for each in fields if each.default is missing and each.default_factory is missing)
