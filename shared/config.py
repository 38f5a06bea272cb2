"""What each function is told by its environment: the only module that reads `os.environ`.

`.env.example` lists every variable with its unit. A missing or impossible value is named together with all the others,
in one error, when the function starts.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from shared.domain.agents import PROFILES, AgentName
from shared.domain.agents.profile import AgentProfile
from shared.domain.errors import Misconfigured
from shared.domain.network import PACKAGE_REGISTRIES, is_public_host
from shared.domain.secret import Secret

T = TypeVar("T")

PRODUCTION = "production"
DEFAULT_MAX_COST_USD = 10.0
TOKEN_EXCHANGES = ("strict", "session-bound", "compat")
SANDBOX_NETWORKS = ("restricted", "open")
# How secrets get to where they are needed: put into requests outside the sandbox where the E2B team can, always so, or
# as files that the sandbox's own user cannot read.
SANDBOX_SECRETS = ("auto", "egress", "file")
# Where the agent finds programs in a sandbox of sandbox/e2b.Dockerfile: the PATH of Debian.
SANDBOX_AGENT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MIN_JWT_SECRET_BYTES = 32  # RFC 7518 §3.2: a key of at least the hash's size
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]+)?")
_LOOPBACK = re.compile(r"http://(127\.0\.0\.1|localhost)(:[0-9]+)?(/.*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """For functions/api. It holds no service key: it acts as the user who calls it.

    Only where test users are enabled, which production never does, is there one, to make and remove them.
    """

    environment: str
    supabase_url: str
    supabase_publishable_key: Secret
    jwt_secret: Secret
    jwt_algorithm: str
    access_token_minutes: int
    refresh_token_days: int
    token_exchange: str
    supabase_jwks: str | None  # the JWKS document itself; None: fetched from the project
    supabase_jwt_issuer: str
    task_queue_url: str
    secrets_kms_key_id: str | None
    secrets_master_keys: Secret | None
    repo_origins: frozenset[str]
    github_api_url: str
    test_users_enabled: bool
    test_users_secret: Secret | None  # what their routes then want to see, too
    supabase_secret_key: Secret | None
    cors_origins: tuple[str, ...]
    cors_origin_pattern: str | None
    prompt_max_chars: int
    max_cost_usd: float

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> "ApiSettings":
        """Raises Misconfigured with a sentence that names every variable in need of attention."""
        read = _Reader(os.environ if env is None else env)
        environment = read.text("ENVIRONMENT", PRODUCTION)
        supabase_url = read.url("SUPABASE_URL")
        test_users = read.flag("ENABLE_TEST_USERS") and environment != PRODUCTION
        settings = cls(
            environment=environment,
            supabase_url=supabase_url,
            supabase_publishable_key=read.secret("SUPABASE_PUBLISHABLE_KEY"),
            jwt_secret=read.secret("JWT_SECRET", min_bytes=MIN_JWT_SECRET_BYTES),
            jwt_algorithm=read.one_of("JWT_ALGORITHM", ("HS256", "HS384", "HS512")),
            access_token_minutes=read.number("JWT_ACCESS_TOKEN_EXPIRE_MINUTES", 60),
            refresh_token_days=read.number("JWT_REFRESH_TOKEN_EXPIRE_DAYS", 7),
            token_exchange=read.one_of("TOKEN_EXCHANGE", TOKEN_EXCHANGES),
            supabase_jwks=read.optional("SUPABASE_JWKS"),
            supabase_jwt_issuer=read.text("SUPABASE_JWT_ISSUER", f"{supabase_url}/auth/v1"),
            task_queue_url=read.url("TASK_QUEUE_URL"),
            secrets_kms_key_id=read.optional("SECRETS_KMS_KEY_ID"),
            secrets_master_keys=read.optional_secret("SECRETS_MASTER_KEYS"),
            repo_origins=frozenset(read.origins("REPO_ORIGINS", "https://github.com")),
            github_api_url=read.url("GITHUB_API_URL", "https://api.github.com"),
            test_users_enabled=test_users,
            test_users_secret=read.optional_secret("TEST_USERS_SECRET"),
            supabase_secret_key=read.secret_where("SUPABASE_SECRET_KEY", needed=test_users),
            cors_origins=read.origins("CORS_ORIGINS", "http://localhost:3000,http://localhost:3001"),
            cors_origin_pattern=read.pattern("CORS_ORIGIN_PATTERN"),
            prompt_max_chars=read.number("PROMPT_MAX_CHARS", 50_000, most=100_000),  # the database's own bound
            max_cost_usd=read.decimal("AGENT_MAX_COST_USD", DEFAULT_MAX_COST_USD),
        )
        read.check_secret_box(environment)
        read.check_origins(environment, settings.repo_origins)
        if settings.github_api_url.startswith("http://") and not _LOOPBACK.fullmatch(settings.github_api_url):
            read.problem("GITHUB_API_URL may be http:// only on this machine itself: tokens travel to it")
        if environment == PRODUCTION and settings.token_exchange == "compat":
            read.problem("TOKEN_EXCHANGE=compat issues tokens without proof: not with ENVIRONMENT=production")
        read.finish()
        return settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAccess:
    """The deployment's access to an agent's model, by the variables that the agent's profile names."""

    key: Secret | None = None  # None: only users with an access of their own have runs with this agent
    base_url: str | None = None  # None: the provider's own
    model: str | None = None  # None: the choice of the agent's program


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorSettings:
    """For functions/executor, its reaper and its dead letters. Times in seconds."""

    environment: str
    supabase_url: str
    supabase_secret_key: Secret
    task_queue_url: str
    secrets_kms_key_id: str | None
    secrets_master_keys: Secret | None
    repo_origins: frozenset[str]
    e2b_api_key: Secret
    e2b_template: str
    sandbox_network: str
    sandbox_registries: tuple[str, ...]
    sandbox_secrets: str
    sandbox_lease_s: int
    sandbox_python: str
    sandbox_agent_path: str
    step_lease_s: int
    run_timeout_s: int
    max_steps: int
    agent_idle_timeout_s: int
    setup_timeout_s: int
    clone_timeout_s: int
    clone_depth: int
    max_turns: int
    max_cost_usd: float
    models: Mapping[AgentName, ModelAccess]
    reaper_grace_s: int
    follow_up_window_s: int
    replay_queue_url: str
    checkpoint_every_s: int
    queue_timeout_s: int

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> "ExecutorSettings":
        """Raises Misconfigured with a sentence that names every variable in need of attention."""
        read = _Reader(os.environ if env is None else env)
        environment = read.text("ENVIRONMENT", PRODUCTION)
        settings = cls(
            environment=environment,
            supabase_url=read.url("SUPABASE_URL"),
            supabase_secret_key=read.secret("SUPABASE_SECRET_KEY"),
            task_queue_url=read.url("TASK_QUEUE_URL"),
            secrets_kms_key_id=read.optional("SECRETS_KMS_KEY_ID"),
            secrets_master_keys=read.optional_secret("SECRETS_MASTER_KEYS"),
            repo_origins=frozenset(read.origins("REPO_ORIGINS", "https://github.com")),
            e2b_api_key=read.secret("E2B_API_KEY"),
            e2b_template=read.text("E2B_TEMPLATE", "async-code-agents"),
            sandbox_network=read.one_of("SANDBOX_NETWORK", SANDBOX_NETWORKS),
            sandbox_registries=read.hosts("SANDBOX_REGISTRIES", PACKAGE_REGISTRIES),
            sandbox_secrets=read.one_of("SANDBOX_SECRETS", SANDBOX_SECRETS),
            sandbox_lease_s=read.number("SANDBOX_LEASE_S", 900, least=300),  # a look, a minute, a look that is late
            sandbox_python=read.text("SANDBOX_PYTHON", "/usr/bin/python3"),
            sandbox_agent_path=read.text("SANDBOX_AGENT_PATH", SANDBOX_AGENT_PATH),
            step_lease_s=read.number("STEP_LEASE_S", 150, least=5),
            # The longest that E2B lets a sandbox live: an hour with the free plan, a day with the paid one.
            run_timeout_s=read.number("RUN_TIMEOUT_S", 3600, least=30, most=86_400),
            max_steps=read.number("MAX_STEPS", 5000, least=100),
            agent_idle_timeout_s=read.number("AGENT_IDLE_TIMEOUT_S", 900, least=10),
            setup_timeout_s=read.number("SETUP_TIMEOUT_S", 600, least=10),
            clone_timeout_s=read.number("CLONE_TIMEOUT_S", 300, least=10),
            clone_depth=read.number("CLONE_DEPTH", 50),
            max_turns=read.number("AGENT_MAX_TURNS", 200),
            max_cost_usd=read.decimal("AGENT_MAX_COST_USD", DEFAULT_MAX_COST_USD),
            models={name: read.model_access(profile) for name, profile in PROFILES.items()},
            reaper_grace_s=read.number("REAPER_GRACE_S", 60),
            follow_up_window_s=read.number("FOLLOW_UP_WINDOW_S", 14_400, least=0),
            replay_queue_url=read.url("REPLAY_QUEUE_URL"),
            checkpoint_every_s=read.number("CHECKPOINT_EVERY_S", 300, least=10),
            # Before the git token of a task expires, which it does after two days.
            queue_timeout_s=read.number("QUEUE_TIMEOUT_S", 86_400, least=60, most=172_800),
        )
        read.check_secret_box(environment)
        read.check_origins(environment, settings.repo_origins)
        read.finish()
        return settings

    def model_keys(self) -> tuple[Secret, ...]:
        """The deployment's keys to the models of all agents."""
        return tuple(access.key for access in self.models.values() if access.key)


def replay_queues(env: Mapping[str, str] | None = None) -> tuple[str, str] | None:
    """URLs of the replay queue and the task queue, where the environment names both: for an operator's own machine."""
    read = _Reader(os.environ if env is None else env)
    kept, tasks = read.optional("REPLAY_QUEUE_URL"), read.optional("TASK_QUEUE_URL")
    return (kept, tasks) if kept and tasks else None


class _Reader:
    """Reads variables and gathers what is wrong with them; finish() raises it all at once."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._missing: list[str] = []
        self._problems: list[str] = []

    def optional(self, name: str) -> str | None:
        return self._env.get(name, "").strip() or None

    def optional_secret(self, name: str) -> Secret | None:
        value = self.optional(name)
        return Secret(value) if value else None

    def model_access(self, profile: AgentProfile) -> ModelAccess:
        return ModelAccess(
            key=self.optional_secret(profile.key_variable),
            base_url=self.optional(profile.base_url_variable),
            model=self.optional(profile.model_variable),
        )

    def text(self, name: str, default: str) -> str:
        return self.optional(name) or default

    def required(self, name: str) -> str:
        value = self.optional(name)
        if value is None:
            self._missing.append(name)
        return value or ""

    def secret(self, name: str, *, min_bytes: int = 1) -> Secret:
        value = self.required(name)
        if value and len(value.encode()) < min_bytes:
            self.problem(f"{name} must have at least {min_bytes} bytes")
        return Secret(value)

    def secret_where(self, name: str, *, needed: bool) -> Secret | None:
        """Where it is not needed it is not taken, even if it is there."""
        given = self.optional_secret(name)
        return (given or self.secret(name)) if needed else None

    def url(self, name: str, default: str | None = None) -> str:
        value = (self.text(name, default) if default else self.required(name)).rstrip("/")
        if value and not value.startswith(("https://", "http://")):
            self.problem(f"{name} must be an http(s) URL")
        return value

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        value = self.text(name, choices[0])
        if value not in choices:
            self.problem(f"{name} must be one of {', '.join(choices)}")
        return value

    def flag(self, name: str) -> bool:
        return self.one_of(name, ("false", "true")) == "true"

    def number(self, name: str, default: int, *, least: int = 1, most: int = 1_000_000) -> int:
        return self._parsed(name, default, int, f"a whole number from {least} to {most}", lambda n: least <= n <= most)

    def decimal(self, name: str, default: float) -> float:
        return self._parsed(name, default, float, "a number above 0", lambda n: 0 < n < 1_000_000)

    def pattern(self, name: str) -> str | None:
        value = self.optional(name)
        try:
            re.compile(value or "")
        except re.error:
            self.problem(f"{name} must be a regular expression")
            return None
        return value

    def origins(self, name: str, default: str) -> tuple[str, ...]:
        values = tuple(origin.strip().rstrip("/") for origin in self.text(name, default).split(",") if origin.strip())
        if not all(_ORIGIN.fullmatch(value) for value in values):
            self.problem(f"{name} must be origins such as https://github.com, separated by commas")
        return values

    def hosts(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """The word `none` stands for an empty list."""
        text = self.optional(name)
        if text is None or text == "none":
            return () if text else default
        values = tuple(host.strip().lower() for host in text.split(",") if host.strip())
        if not all(map(is_public_host, values)):
            self.problem(f"{name} must be none, or hosts such as pypi.org or *.example.org, separated by commas")
        return values

    def check_origins(self, environment: str, origins: frozenset[str]) -> None:
        plain = {origin for origin in origins if origin.startswith("http://")}
        if plain and (environment == PRODUCTION or not all(_LOOPBACK.fullmatch(origin) for origin in plain)):
            self.problem("REPO_ORIGINS may name http:// only for this machine itself, and never in production")

    def check_secret_box(self, environment: str) -> None:
        if not self.optional("SECRETS_KMS_KEY_ID") and not self.optional("SECRETS_MASTER_KEYS"):
            self._missing.append("SECRETS_KMS_KEY_ID")
        if environment == PRODUCTION and self.optional("SECRETS_MASTER_KEYS"):
            self.problem("SECRETS_MASTER_KEYS is for a laptop: use SECRETS_KMS_KEY_ID with ENVIRONMENT=production")

    def problem(self, sentence: str) -> None:
        self._problems.append(sentence)

    def finish(self) -> None:
        if self._missing:
            self._problems.insert(0, f"Missing required environment variables: {', '.join(self._missing)}")
        if self._problems:
            raise Misconfigured(". ".join(self._problems))

    def _parsed(self, name: str, default: T, parse: Callable[[str], T], what: str, sound: Callable[[T], bool]) -> T:
        try:
            value = parse(self.text(name, str(default)))
        except ValueError:
            value = None
        if value is None or not sound(value):
            self.problem(f"{name} must be {what}")
            return default
        return value
