"""The whole stack on one machine: real handlers, real SDKs, and an endpoint for every cloud they speak to.

Only environment variables differ from the cloud. Where the options name a real service, that one is used and its local
stand-in is not started. The environment of this process is not read.
"""

import fcntl
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from local.agent_clis import ensure_cli
from local.keys import Keys, keys_of
from local.listening import LOOPBACK, listen_near, url_of
from local.processes import Child, ProcessGroup, has_said
from local.services.aws.queue import REGION, QueueUrls, create_queues
from local.services.e2b.isolation import SANDBOX_PYTHON, agent_path
from local.services.e2b.template import Template
from local.services.postgres import SET_ASIDE, Postgres
from local.settings import LOCAL, StackSettings, Values
from shared.domain.agents import AgentName
from shared.domain.agents.profile import AgentProfile

# As template.yaml has them; a test holds the two together.
API_TIMEOUT_S = 29
EXECUTOR_TIMEOUT_S = 120
DEAD_LETTERS_TIMEOUT_S = 60
REAPER_TIMEOUT_S = 55
REAPER_EVERY_S = 60

# Where the frontend expects the backend, and where the Supabase CLI would put its own.
PREFERRED_PORTS = {
    "api": 8000,
    "supabase": 54321,
    "sqs": 9324,
    "e2b": 8900,
    "model": 8901,
    "git": 8902,
    "github": 8903,
}
POSTGRES_PORT = 54322  # preferred, too: PostgreSQL binds it itself, and says which one it got
POSTGRES_READY = re.compile(r"accepts connections on 127\.0\.0\.1:(\d+)")
FOR_BROWSERS = ("api", "supabase", "git")  # what HOST opens

STAND_IN = ("local.services.e2b",)
NOT_ISOLATED = "NO ISOLATION"  # with these words the E2B server's log begins to say why
READY_TIMEOUT_S = 180  # a busy machine; the ordinary start takes one to three seconds

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions(StackSettings):
    """A person's choices, and what tests and benchmarks choose beside them. `cache` is for the agents' programs."""

    cache: Path = LOCAL / "cache"
    executors: int = 4  # steps that may run at the same time
    # Shorter than in the cloud, so that nobody waits long for a crashed step. A step that takes longer still is only
    # done twice at worst: the fence lets one of the two write.
    step_lease_s: int = 30
    retry_visibility_s: int = 10
    reaper_every_s: float = REAPER_EVERY_S
    reaper_grace_s: int = 60
    follow_up_window_s: int = 14_400
    run_timeout_s: int = 3300
    agent_idle_timeout_s: int = 900
    setup_timeout_s: int = 600
    checkpoint_every_s: int = 300
    isolation: str = "auto"
    e2b_server: tuple[str, ...] = STAND_IN  # the module to run, and more options for it
    sandbox_template: Template | None = None  # None: as sandbox/e2b.Dockerfile ends
    verbose: bool = False  # one REPORT line per invocation of the executor in its log
    preferred_ports: Mapping[str, int] | None = None

    @classmethod
    def of(cls, settings: StackSettings) -> Self:
        return cls(**{each.name: getattr(settings, each.name) for each in fields(StackSettings)})


def scripted_access(profile: AgentProfile, url: str, key: str) -> dict[str, str]:
    """The variables that send an agent to the scripted model at `url`, at the path that its provider's API has."""
    access = {profile.key_variable: key, profile.base_url_variable: url + urlsplit(profile.base_url).path}
    return access | ({profile.model_variable: profile.wheel.model} if profile.wheel.model else {})


class StackError(Exception):
    """The stack cannot start here; the text says what to change."""


class Stack:
    """Starts everything on entry and stops everything on exit, also after a crash of this process.

    `api_url`, `supabase_url`, `urls` and `keys` say how to speak to it; `progress` is told what is being started.
    """

    def __init__(self, options: StackOptions, progress: Progress = lambda _text: None) -> None:
        self.options = options
        self.logs = options.data / "logs"
        self.processes = ProcessGroup(self.logs)
        self.queues = QueueUrls("", "", "")
        self.keys: Keys
        self._progress = progress
        self._exit = ExitStack()
        self._listeners: dict[str, socket.socket] = {}
        self.urls: dict[str, str] = {}  # of its servers but PostgreSQL, by their names
        self._postgres_port = 0
        self._clis: list[Path] = []  # folders of the agents' programs

    @property
    def api_url(self) -> str:
        return self.urls["api"]

    @property
    def supabase_url(self) -> str:
        return self._of_cloud("supabase", "SUPABASE_URL", self.urls.get("supabase", ""))

    @property
    def supabase_publishable_key(self) -> str:
        return self._of_cloud("supabase", "SUPABASE_PUBLISHABLE_KEY", self.keys.supabase_publishable_key)

    @property
    def supabase_secret_key(self) -> str:
        return self._of_cloud("supabase", "SUPABASE_SECRET_KEY", self.keys.supabase_secret_key)

    @property
    def git_url(self) -> str:
        """Origin of the repositories below `git_root`."""
        return self.urls["git"]

    @property
    def github_url(self) -> str:
        """The REST API of the local stand-in of GitHub."""
        return self.urls["github"]

    @property
    def git_root(self) -> Path:
        return self.options.data / "git"

    @property
    def sandboxes_root(self) -> Path:
        return self.options.data / "sandboxes"

    @property
    def sqs_url(self) -> str:
        return self.urls["sqs"]

    @property
    def dsn(self) -> str:
        """The embedded database, as its superuser: for tests and for a curious person. Holds the password."""
        return Postgres(self._postgres_data, self._postgres_port).dsn

    @property
    def _postgres_data(self) -> Path:
        return self.options.data / "postgres"

    def uses(self, cloud: str) -> bool:
        """Whether this real service is used instead of its stand-in."""
        return cloud in self.options.clouds

    def scripted(self, agent: str) -> bool:
        """Whether a scripted model plays the part of this agent's model."""
        return not self.uses(AgentName(agent).profile.provider)

    @property
    def local_github(self) -> bool:
        """Whether repositories and pull requests are on this machine: sandboxes at E2B could not reach them."""
        return not self.uses("github") and not self.uses("e2b")

    def __enter__(self) -> Self:
        with ExitStack() as exit_:
            exit_.enter_context(_only_user_of(self.options.data))
            self.keys = keys_of(self.options.data, self._progress)
            self._listen(exit_)
            exit_.enter_context(self.processes)
            self._start()
            self._exit = exit_.pop_all()
        return self

    def _listen(self, exit_: ExitStack) -> None:
        """Take all ports now, so that no other program can while the programs start that get them."""
        preferred = PREFERRED_PORTS if self.options.preferred_ports is None else self.options.preferred_ports
        unused = {name for name in ("supabase", "e2b") if self.uses(name)}
        unused |= set() if self.local_github else {"github"}
        unused |= set() if any(map(self.scripted, self.options.agents)) else {"model"}
        for name in set(PREFERRED_PORTS) - unused:
            host = self.options.host if name in FOR_BROWSERS else LOOPBACK
            try:
                listener = exit_.enter_context(listen_near(preferred.get(name, 0), host))
            except OSError as error:
                raise StackError(f"No program can listen at {host} on this machine: {error.strerror}.") from error
            self._listeners[name], self.urls[name] = listener, url_of(listener)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.__exit__(kind, error, trace)

    def _start(self) -> None:
        options = self.options
        self._clis = [ensure_cli(agent, options.cache, self._progress, options.caller) for agent in options.agents]
        self._progress("Starting PostgreSQL, Supabase gateway, SQS, E2B server, git and GitHub server")
        together(
            [
                self._start_database,
                self._start_queue,
                self._start_e2b,
                self._start_git,
                self._start_github,
                self._start_model,
            ]
        )
        self._progress("Starting the API and the executor")
        reaper = [] if self.uses("supabase") else [self._start_reaper]  # it works on all runs of a database
        together([self._start_api, self._start_executor, self._start_dead_letters, *reaper])

    # -------------------------------------------------------------------------------------------- the clouds' stand-ins

    def _start_database(self) -> None:
        if self.uses("supabase"):
            return
        self._postgres_port = self._start_postgres()
        self._module(
            "supabase",
            "local.services.supabase",
            [],
            env={
                "DATABASE_URL": self.dsn,
                "JWT_SECRET": self.keys.jwt_secret,
                "SUPABASE_PUBLISHABLE_KEY": self.keys.supabase_publishable_key,
                "SUPABASE_SECRET_KEY": self.keys.supabase_secret_key,
            },
        )

    def _start_postgres(self) -> int:
        """The port that it got."""
        preferred = POSTGRES_PORT if self.options.preferred_ports is None else 0
        argv = ["--data-dir", str(self._postgres_data), "--migrations", "supabase/migrations"]
        programs = self.options.postgres_programs
        child = self.processes.start(
            "postgres",
            [
                sys.executable,
                "-m",
                "local.services.postgres",
                *argv,
                *(["--port", str(preferred)] if preferred else []),
            ],
            env=self._environment({"EMBEDDED_PG_BIN": programs} if programs else {}),
            ready=lambda child: bool(POSTGRES_READY.search(child.output())),
            ready_timeout_s=READY_TIMEOUT_S,
        )
        self._pass_on(child.output(), SET_ASIDE)
        ready = POSTGRES_READY.search(child.output())
        return int(ready[1]) if ready else 0

    def _start_queue(self) -> None:
        self._module("sqs", "local.services.aws", [])
        self.queues = create_queues(self.sqs_url)

    def restart_queue(self) -> None:
        """Start SQS again after it was stopped. Its messages are gone: the reaper sends them again."""
        self.processes.restart("sqs")
        create_queues(self.sqs_url)

    def _start_e2b(self) -> None:
        if self.uses("e2b"):
            return
        paths = [part for cli in self._clis for part in ("--extra-path", str(cli))]
        module, *more = self.options.e2b_server
        self._module(
            "e2b",
            module,
            [
                *(*more, "--root", str(self.sandboxes_root), "--isolation", self.options.isolation),
                *(*paths, *self._template()),
            ],
            env={"E2B_API_KEY": self.keys.e2b_api_key},
        )
        self._pass_on((self.logs / "e2b.log").read_text(), NOT_ISOLATED)

    def _pass_on(self, log: str, words: str) -> None:
        """Show the person what follows `words` in a line of a server's log."""
        for line in log.splitlines():
            _, found, sentence = line.partition(f"{words}: ")
            if found:
                self._progress(sentence)

    def _template(self) -> list[str]:
        if self.options.sandbox_template is None:
            return []
        path = self.options.data / "sandbox_template.json"
        path.write_text(json.dumps(asdict(self.options.sandbox_template)))
        return ["--template", str(path)]

    def _start_git(self) -> None:
        self.git_root.mkdir(parents=True, exist_ok=True)
        self._module("git", "local.services.git.server", ["--root", str(self.git_root)])

    def _start_github(self) -> None:
        if "github" in self.urls:
            self._module("github", "local.services.github", ["--root", str(self.git_root), "--web-url", self.git_url])

    def _start_model(self) -> None:
        if "model" in self.urls:
            self._module("model", "local.services.model", [], env={"SCRIPTED_MODEL_KEY": self.keys.scripted_model_key})

    # ----------------------------------------------------------------------------------------------- the functions

    def _start_api(self) -> None:
        argv = _handler("functions.api.handler:handler", API_TIMEOUT_S)
        self._module("api", "local.services.aws.http_function", [*argv, "--name", "api"], env=self.api_environment())

    def _start_executor(self) -> None:
        argv = [
            *_handler("functions.executor.handler:handler", EXECUTOR_TIMEOUT_S),
            *("--queue-url", self.queues.tasks, "--endpoint-url", self.sqs_url),
            *("--environments", str(self.options.executors)),
            *("--retry-visibility-s", str(self.options.retry_visibility_s)),
            *(["--verbose"] if self.options.verbose else []),
        ]
        self._executor_function("executor", "local.services.aws.queue_function", argv, ready_text="POLLING")

    def _start_dead_letters(self) -> None:
        argv = [
            *_handler("functions.executor.dead_letters:handler", DEAD_LETTERS_TIMEOUT_S),
            *("--queue-url", self.queues.dead_letters, "--endpoint-url", self.sqs_url),
            *("--environments", "1", "--cold"),
        ]
        self._executor_function("dead-letters", "local.services.aws.queue_function", argv, ready_text="POLLING")

    def _start_reaper(self) -> None:
        argv = [
            *_handler("functions.executor.reaper:handler", REAPER_TIMEOUT_S),
            *("--every-s", str(self.options.reaper_every_s)),
        ]
        self._executor_function("reaper", "local.services.aws.schedule", argv, ready_text="INIT")

    def api_environment(self) -> dict[str, str]:
        """What template.yaml gives the API function: no sandbox or model key; the service key only for test users."""
        chosen = dict(self.options.test_users)
        if self.local_github:
            chosen["GITHUB_API_URL"] = self.github_url
        elif url := self._of_cloud("github", "GITHUB_API_URL", ""):
            chosen["GITHUB_API_URL"] = url
        if chosen.get("ENABLE_TEST_USERS") == "true":
            chosen["SUPABASE_SECRET_KEY"] = self.supabase_secret_key
        return (
            self._function_environment()
            | chosen
            | {
                "SUPABASE_PUBLISHABLE_KEY": self.supabase_publishable_key,
                "JWT_SECRET": self._of_cloud("supabase", "JWT_SECRET", self.keys.jwt_secret),
                "TOKEN_EXCHANGE": "compat",  # the unmodified frontend sends a bare user id; refused in production
            }
        )

    def executor_environment(self) -> dict[str, str]:
        """What template.yaml gives the executor's functions."""
        settings = {
            "SUPABASE_SECRET_KEY": self.supabase_secret_key,
            "E2B_API_KEY": self.keys.e2b_api_key,
            "REPLAY_QUEUE_URL": self.queues.replays,
            "STEP_LEASE_S": str(self.options.step_lease_s),
            "CHECKPOINT_EVERY_S": str(self.options.checkpoint_every_s),
            "REAPER_GRACE_S": str(self.options.reaper_grace_s),
            "FOLLOW_UP_WINDOW_S": str(self.options.follow_up_window_s),
            "RUN_TIMEOUT_S": str(self.options.run_timeout_s),
            "AGENT_IDLE_TIMEOUT_S": str(self.options.agent_idle_timeout_s),
            "SETUP_TIMEOUT_S": str(self.options.setup_timeout_s),
        }
        if self.uses("e2b"):
            settings |= self.options.clouds["e2b"]
        else:
            settings |= {"E2B_API_URL": self.urls["e2b"], "E2B_SANDBOX_URL": self.urls["e2b"]}
            if self.options.e2b_server == STAND_IN:  # the sandboxes of another one are as those of E2B
                settings |= {"SANDBOX_PYTHON": SANDBOX_PYTHON, "SANDBOX_AGENT_PATH": agent_path(self._clis)}
        for agent in self.options.agents:
            settings |= self._model_environment(agent)
        return self._function_environment() | settings

    def _model_environment(self, agent: str) -> Values:
        profile = AgentName(agent).profile
        if not self.scripted(agent):
            return self.options.clouds[profile.provider]
        return scripted_access(profile, self.urls["model"], self.keys.scripted_model_key)

    def _function_environment(self) -> dict[str, str]:
        return {
            "ENVIRONMENT": "local",
            "SUPABASE_URL": self.supabase_url,
            "TASK_QUEUE_URL": self.queues.tasks,
            "AWS_ENDPOINT_URL_SQS": self.sqs_url,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "SECRETS_MASTER_KEYS": self.keys.secrets_master_keys,
            "REPO_ORIGINS": f"https://github.com,{self.git_url}",
        }

    # ------------------------------------------------------------------------------------------------------ plumbing

    def _executor_function(self, name: str, module: str, argv: list[str], *, ready_text: str) -> None:
        self.processes.start(
            name,
            [sys.executable, "-m", module, *argv, "--name", name],
            env=self._environment(self.executor_environment()),
            ready=has_said(ready_text),
            ready_timeout_s=READY_TIMEOUT_S,
        )

    def _module(self, name: str, module: str, argv: list[str], *, env: Values | None = None) -> Child:
        """Start a server on the port that was taken for it."""
        return self.processes.start(
            name,
            [sys.executable, "-m", module, *argv],
            env=self._environment(env or {}),
            ready_timeout_s=READY_TIMEOUT_S,
            listener=self._listeners[name],
        )

    def _environment(self, env: Values) -> dict[str, str]:
        return {**self.options.machine, "PYTHONUNBUFFERED": "1", **env}

    def _of_cloud(self, cloud: str, variable: str, default: str) -> str:
        return self.options.clouds.get(cloud, {}).get(variable, default)


def _handler(handler: str, timeout_s: int) -> list[str]:
    return ["--handler", handler, "--timeout-s", str(timeout_s)]


@contextmanager
def _only_user_of(data: Path) -> Iterator[None]:
    """Hold the data folder. Raises StackError while another stack does: the two would share logs, database and keys."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = (data / "stack.lock").open("a+")
    except OSError as error:
        raise StackError(f"{data} cannot be used: {error.strerror}. LOCAL_DATA=/path names another folder.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise StackError(
                f"Another `make dev` or `make demo` (process {lock.read().strip() or 'unknown'}) works with {data}. "
                "Stop it first, or let this one work with another folder: LOCAL_DATA=/path/to/folder."
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def together(starts: list[Callable[[], None]]) -> None:
    """Run all at the same time; raises the first error after all have ended."""
    with ThreadPoolExecutor(len(starts)) as pool:
        for done in [pool.submit(start) for start in starts]:
            done.result()
