"""The whole stack on one machine: real handlers, real SDKs, and an endpoint for every cloud they speak to.

Only environment variables differ from the cloud. Where the caller's environment already names a cloud (SUPABASE_URL,
E2B_API_KEY, a model key), that one is used and its local stand-in is not started.
"""

import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from local.agent_clis import ensure_cli
from local.aws.queue import REGION, QueueUrls, create_queues
from local.keys import Keys, keys_of
from local.postgres import Postgres
from local.processes import PROJECT_ROOT, ProcessGroup, accepts_connections, free_port, has_said

SUPABASE_KEYS = ("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY", "JWT_SECRET")
MODEL_KEYS = {"claude": "ANTHROPIC_API_KEY", "codex": "OPENAI_API_KEY"}

LOCAL = PROJECT_ROOT / ".local"  # ignored by git; `make clean` removes it
SCRIPTED_CODEX_MODEL = "gpt-6.1-sol"  # the default that Codex 0.169 ships with

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
    "postgres": 54322,
    "sqs": 9324,
    "e2b": 8900,
    "model": 8901,
    "git": 8902,
    "github": 8903,
}

NOT_ISOLATED = "NO ISOLATION"  # with these words the E2B server's log begins to say why
READY_TIMEOUT_S = 60  # a laptop under load; the ordinary start takes one to three seconds

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """`data` keeps the database and keys, `cache` the agents' programs; both survive the stack."""

    data: Path = field(default_factory=lambda: Path(os.environ.get("LOCAL_DATA") or LOCAL / "data").resolve())
    cache: Path = LOCAL / "cache"
    agents: tuple[str, ...] = ("claude",)
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
    verbose: bool = False  # one REPORT line per invocation of the executor in its log
    preferred_ports: Mapping[str, int] | None = None


class StackError(Exception):
    """The environment asks for something that cannot work; the text says what to change."""


class Stack:
    """Starts everything on entry and stops everything on exit, also after a crash of this process.

    `api_url`, `supabase_url` and `keys` say how to speak to it; `progress` is told what is being started.
    """

    def __init__(self, options: StackOptions, progress: Progress = lambda _text: None) -> None:
        self.options = options
        self.logs = options.data / "logs"
        self.keys: Keys = keys_of(options.data)
        self._progress = progress
        self._exit = ExitStack()
        preferred = PREFERRED_PORTS if options.preferred_ports is None else options.preferred_ports
        self.ports = {name: free_port(preferred.get(name, 0)) for name in PREFERRED_PORTS}
        self.processes = ProcessGroup(self.logs)
        self.queues = QueueUrls("", "", "")

    @property
    def api_url(self) -> str:
        return self._url("api")

    @property
    def supabase_url(self) -> str:
        return os.environ.get("SUPABASE_URL") or self._url("supabase")

    @property
    def supabase_secret_key(self) -> str:
        return self._given("SUPABASE_SECRET_KEY", self.keys.supabase_secret_key)

    @property
    def git_url(self) -> str:
        """Origin of the repositories below `git_root`."""
        return self._url("git")

    @property
    def git_root(self) -> Path:
        return self.options.data / "git"

    @property
    def sandboxes_root(self) -> Path:
        return self.options.data / "sandboxes"

    @property
    def sqs_url(self) -> str:
        return self._url("sqs")

    @property
    def dsn(self) -> str:
        """The embedded database, as its superuser: for tests and for a curious person. Holds the password."""
        return Postgres(self._postgres_data, self.ports["postgres"]).dsn

    @property
    def _postgres_data(self) -> Path:
        return self.options.data / "postgres"

    def scripted(self, agent: str) -> bool:
        """Whether a scripted model plays the part of this agent's model, since there is no key for a real one."""
        return not os.environ.get(MODEL_KEYS[agent])

    @property
    def real_sandboxes(self) -> bool:
        """Whether tasks run at E2B, since there is a key for it. From there nothing on this machine can be reached."""
        return bool(os.environ.get("E2B_API_KEY"))

    @property
    def local_github(self) -> bool:
        """Whether pull requests are made at the stand-in of GitHub; not where another one is named."""
        return not os.environ.get("GITHUB_API_URL") and not self.real_sandboxes

    def __enter__(self) -> Self:
        missing = [name for name in SUPABASE_KEYS if not os.environ.get(name)]
        if os.environ.get("SUPABASE_URL") and missing:
            raise StackError(f"SUPABASE_URL is set, so {' and '.join(missing)} of that project must be set too.")
        scripted = [MODEL_KEYS[agent] for agent in self.options.agents if self.scripted(agent)]
        if self.real_sandboxes and scripted:
            raise StackError(
                "E2B_API_KEY is set, but sandboxes at E2B cannot reach the scripted model on this machine. "
                f"Set {' and '.join(scripted)} too, or unset E2B_API_KEY."
            )
        with ExitStack() as exit_:
            exit_.enter_context(self.processes)
            self._start()
            self._exit = exit_.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.__exit__(kind, error, trace)

    def _start(self) -> None:
        clis = [ensure_cli(agent, self.options.cache, self._progress) for agent in self.options.agents]
        self._progress("Starting PostgreSQL, Supabase gateway, SQS, E2B server, git and GitHub server")
        together(
            [
                self._start_database,
                self._start_queue,
                lambda: self._start_e2b(clis),
                self._start_git,
                self._start_github,
                self._start_model,
            ]
        )
        self._progress("Starting the API and the executor")
        together([self._start_api, self._start_executor, self._start_dead_letters, self._start_reaper])

    # -------------------------------------------------------------------------------------------- the clouds' stand-ins

    def _start_database(self) -> None:
        if os.environ.get("SUPABASE_URL"):
            return
        self._module(
            "postgres",
            "local.postgres",
            ["--data-dir", str(self._postgres_data), "--migrations", "supabase/migrations"],
            ready_text="accepts connections on",
        )
        self._module(
            "supabase",
            "local.supabase",
            [],
            env={
                "DATABASE_URL": self.dsn,
                "JWT_SECRET": self.keys.jwt_secret,
                "SUPABASE_PUBLISHABLE_KEY": self.keys.supabase_publishable_key,
                "SUPABASE_SECRET_KEY": self.keys.supabase_secret_key,
            },
        )

    def _start_queue(self) -> None:
        self._module("sqs", "local.aws", [])
        self.queues = create_queues(self.sqs_url)

    def restart_queue(self) -> None:
        """Start SQS again after it was stopped. Its messages are gone: the reaper sends them again."""
        self.processes.restart("sqs")
        create_queues(self.sqs_url)

    def _start_e2b(self, clis: list[Path]) -> None:
        if self.real_sandboxes:
            return
        paths = [part for cli in clis for part in ("--extra-path", str(cli))]
        self._module(
            "e2b",
            "local.e2b",
            ["--root", str(self.sandboxes_root), "--isolation", self.options.isolation, *paths],
            env={"E2B_API_KEY": self.keys.e2b_api_key},
            ready_text="sandboxes are isolated by",
        )
        for line in (self.logs / "e2b.log").read_text().splitlines():
            _, found, sentence = line.partition(f"{NOT_ISOLATED}: ")
            if found:
                self._progress(sentence)

    def _start_git(self) -> None:
        self.git_root.mkdir(parents=True, exist_ok=True)
        self._module("git", "local.git_server", ["--root", str(self.git_root)])

    def _start_github(self) -> None:
        if self.local_github:
            self._module("github", "local.github", ["--root", str(self.git_root), "--web-url", self.git_url])

    def _start_model(self) -> None:
        if any(self.scripted(agent) for agent in self.options.agents):
            self._module("model", "local.model", [], env={"SCRIPTED_MODEL_KEY": self.keys.scripted_model_key})

    # ----------------------------------------------------------------------------------------------- the functions

    def _start_api(self) -> None:
        argv = _handler("functions.api.handler:handler", API_TIMEOUT_S)
        self._module("api", "local.aws.http_function", [*argv, "--name", "api"], env=self.api_environment())

    def _start_executor(self) -> None:
        argv = [
            *_handler("functions.executor.handler:handler", EXECUTOR_TIMEOUT_S),
            *("--queue-url", self.queues.tasks, "--endpoint-url", self.sqs_url),
            *("--environments", str(self.options.executors)),
            *("--retry-visibility-s", str(self.options.retry_visibility_s)),
            *(["--verbose"] if self.options.verbose else []),
        ]
        self._executor_function("executor", "local.aws.queue_function", argv, ready_text="POLLING")

    def _start_dead_letters(self) -> None:
        argv = [
            *_handler("functions.executor.dead_letters:handler", DEAD_LETTERS_TIMEOUT_S),
            *("--queue-url", self.queues.dead_letters, "--endpoint-url", self.sqs_url),
            *("--environments", "1", "--cold"),
        ]
        self._executor_function("dead-letters", "local.aws.queue_function", argv, ready_text="POLLING")

    def _start_reaper(self) -> None:
        argv = [
            *_handler("functions.executor.reaper:handler", REAPER_TIMEOUT_S),
            *("--every-s", str(self.options.reaper_every_s)),
        ]
        self._executor_function("reaper", "local.aws.schedule", argv, ready_text="INIT")

    def api_environment(self) -> dict[str, str]:
        """What template.yaml gives the API function: no sandbox or model key; the service key only for test users."""
        given = ("GITHUB_API_URL", "ENABLE_TEST_USERS", "TEST_USERS_SECRET")
        chosen = {name: os.environ[name] for name in given if os.environ.get(name)}
        if self.local_github:
            chosen["GITHUB_API_URL"] = self._url("github")
        if chosen.get("ENABLE_TEST_USERS") == "true":
            chosen["SUPABASE_SECRET_KEY"] = self.supabase_secret_key
        return (
            self._function_environment()
            | chosen
            | {
                "SUPABASE_PUBLISHABLE_KEY": self._given("SUPABASE_PUBLISHABLE_KEY", self.keys.supabase_publishable_key),
                "JWT_SECRET": self._given("JWT_SECRET", self.keys.jwt_secret),
                "TOKEN_EXCHANGE": "compat",  # the unmodified frontend sends a bare user id; refused in production
            }
        )

    def executor_environment(self) -> dict[str, str]:
        """What template.yaml gives the executor's functions."""
        settings = {
            "SUPABASE_SECRET_KEY": self.supabase_secret_key,
            "E2B_API_KEY": self._given("E2B_API_KEY", self.keys.e2b_api_key),
            "REPLAY_QUEUE_URL": self.queues.replays,
            "STEP_LEASE_S": str(self.options.step_lease_s),
            "CHECKPOINT_EVERY_S": str(self.options.checkpoint_every_s),
            "REAPER_GRACE_S": str(self.options.reaper_grace_s),
            "FOLLOW_UP_WINDOW_S": str(self.options.follow_up_window_s),
            "RUN_TIMEOUT_S": str(self.options.run_timeout_s),
            "AGENT_IDLE_TIMEOUT_S": str(self.options.agent_idle_timeout_s),
            "SETUP_TIMEOUT_S": str(self.options.setup_timeout_s),
        }
        if not self.real_sandboxes:
            settings |= {"E2B_API_URL": self._url("e2b"), "E2B_SANDBOX_URL": self._url("e2b")}
        for agent, key in MODEL_KEYS.items():
            if not self.scripted(agent):
                settings[key] = os.environ[key]
            elif agent in self.options.agents:
                settings[key] = self.keys.scripted_model_key
        if "claude" in self.options.agents and self.scripted("claude"):
            settings["ANTHROPIC_BASE_URL"] = self._url("model")
        if "codex" in self.options.agents and self.scripted("codex"):
            # Codex does not say which model it takes by itself, and without a name its tokens have no price.
            settings |= {"OPENAI_BASE_URL": f"{self._url('model')}/v1", "CODEX_MODEL": SCRIPTED_CODEX_MODEL}
        given = ("CLAUDE_MODEL", "CODEX_MODEL", "ANTHROPIC_BASE_URL", "OPENAI_BASE_URL", "E2B_TEMPLATE")
        chosen = {name: os.environ[name] for name in given if os.environ.get(name)}
        return self._function_environment() | settings | chosen

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
            env=_base_environment() | self.executor_environment(),
            ready=has_said(ready_text),
            ready_timeout_s=READY_TIMEOUT_S,
        )

    def _module(
        self,
        name: str,
        module: str,
        argv: list[str],
        *,
        env: Mapping[str, str] | None = None,
        ready_text: str | None = None,
    ) -> None:
        port = self.ports[name]
        self.processes.start(
            name,
            [sys.executable, "-m", module, *argv, "--port", str(port)],
            env={**_base_environment(), **(env or {})},
            ready=has_said(ready_text) if ready_text else accepts_connections(port),
            ready_timeout_s=READY_TIMEOUT_S,
        )

    def _url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    @staticmethod
    def _given(name: str, default: str) -> str:
        return os.environ.get(name) or default


def _handler(handler: str, timeout_s: int) -> list[str]:
    return ["--handler", handler, "--timeout-s", str(timeout_s)]


def _base_environment() -> dict[str, str]:
    """What any program needs; nothing of the caller's keys and tokens."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "TERM", "SSL_CERT_FILE", "PYTHONDONTWRITEBYTECODE")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONUNBUFFERED": "1"}


def together(starts: list[Callable[[], None]]) -> None:
    """Run all at the same time; raises the first error after all have ended."""
    with ThreadPoolExecutor(len(starts)) as pool:
        for done in [pool.submit(start) for start in starts]:
            done.result()
