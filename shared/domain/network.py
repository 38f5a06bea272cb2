"""What a sandbox may reach, and which of its requests get a secret put in on their way out.

Everything is denied but the host of the model, the git host, package registries, and what the project adds in its
settings: {"network": ["db.example.org", "*.example.net", "203.0.113.7"] | null}. That row is not trusted: the API
refuses what is unsound, the executor leaves it out.
"""

import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from shared.domain.agents import AgentName
from shared.domain.agents.profile import AgentProfile, UserCloud
from shared.domain.preferences import CREDENTIALS, AgentPreferences, gives_access
from shared.domain.secret import Secret

MAX_HOSTS = 50  # of one project
# Where setups and agents get packages from, as of November 2026; SANDBOX_REGISTRIES replaces the list. No host belongs
# in it where anybody can put up a place to write to, such as those of cloud storage.
PACKAGE_REGISTRIES = (
    *("registry.npmjs.org", "registry.yarnpkg.com", "nodejs.org"),  # nodejs.org: headers to build native modules with
    *("pypi.org", "files.pythonhosted.org"),
    *("crates.io", "index.crates.io", "static.crates.io", "static.rust-lang.org"),
    *("proxy.golang.org", "sum.golang.org"),
    *("rubygems.org", "index.rubygems.org"),
    *("repo.maven.apache.org", "repo1.maven.org", "plugins.gradle.org", "services.gradle.org"),
    *("api.nuget.org", "packagist.org", "repo.packagist.org"),
    *("deb.debian.org", "security.debian.org"),
)
# From where else a git host serves what it is asked for: archives, releases, LFS, single files.
ALSO_SERVES = {
    "github.com": (
        *("codeload.github.com", "objects.githubusercontent.com", "release-assets.githubusercontent.com"),
        *("raw.githubusercontent.com", "github-cloud.githubusercontent.com"),
    ),
}

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?")
_MAX_NAME_CHARS = 253
# Names that only mean something inside somebody's network: the provider's, where the sandbox stands.
_INSIDE = (".internal", ".local", ".localhost", ".arpa")
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderRule:
    """Each request to `host` gets `header`: `scheme`, then the value of the stored secret of the name `secret`."""

    host: str
    header: str
    scheme: str
    secret: str


@dataclass(frozen=True, slots=True)
class SandboxNetwork:
    """What a sandbox may reach: `hosts` are names, `*.names` and IP addresses; None means everything."""

    hosts: tuple[str, ...] | None
    rules: tuple[HeaderRule, ...] = ()


OPEN_NETWORK = SandboxNetwork(None)


def restricted_network(
    *,
    repository_origin: str,
    agent: AgentName,
    base_url: str | None,
    preferences: AgentPreferences,
    registries: Collection[str],
    project_hosts: Collection[str],
) -> SandboxNetwork:
    """The network of a run's sandbox. `base_url` is where the deployment has the agent's model; None: its maker."""
    git = host_of(repository_origin)
    hosts = [git, *ALSO_SERVES.get(git or "", ()), *_model_hosts(agent, base_url, preferences)]
    return SandboxNetwork(tuple(dict.fromkeys(host for host in (*hosts, *registries, *project_hosts) if host)))


def read_hosts(wanted: object, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The sound ones of the hosts that stand at `where`, in lower case, and a sentence for each thing left out."""
    if wanted is None:
        return (), ()
    if not isinstance(wanted, list):
        return (), (f"{where} must be a list of hosts.",)
    hosts, problems = [], []
    for number, host in enumerate(wanted, start=1):
        if number > MAX_HOSTS:
            problems.append(f"{where} may have at most {MAX_HOSTS} hosts.")
            break
        if isinstance(host, str) and is_public_host(host.lower()):
            hosts.append(host.lower())
        else:
            problems.append(
                f"{where}: entry {number} must be a public host such as example.org or *.example.org, or an IPv4"
                " address, without scheme, port and path."
            )
    return tuple(dict.fromkeys(hosts)), tuple(problems)


def is_public_host(text: str) -> bool:
    """Whether it is a host name of at least two parts, such a one after `*.`, or a public IPv4 address."""
    try:
        return ipaddress.IPv4Address(text).is_global
    except ValueError:
        return len(text) <= _MAX_NAME_CHARS and bool(_NAME.fullmatch(text)) and not text.endswith(_INSIDE)


def host_of(url: str) -> str | None:
    """The host of an address, in lower case; of this machine as an IP address, which needs no DNS."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return None
    return _LOOPBACK if host == "localhost" else host


def takes_headers(origin: str) -> bool:
    """Whether a HeaderRule works there: the host must have a name, and its TLS the usual port."""
    host = host_of(origin)
    return origin.startswith("https://") and host is not None and is_name(host) and _port(origin) in (None, 443)


def is_name(host: str) -> bool:
    return _NAME.fullmatch(host) is not None


def _port(url: str) -> int | None:
    try:
        return urlsplit(url).port
    except ValueError:
        return 0


def _model_hosts(agent: AgentName, base_url: str | None, preferences: AgentPreferences) -> Iterator[str | None]:
    profile = agent.profile
    if not preferences.model_access:
        yield host_of(base_url or profile.base_url)
        return
    access = {name: value for name, value in preferences.env.items() if gives_access(agent, name)}
    # Whatever of it is an address: base URLs, proxies, token servers.
    addresses = {name: host_of(value.reveal()) for name, value in access.items() if "://" in value.reveal()}
    clouds = [cloud for name, cloud in profile.user_clouds.items() if name in access and _is_set(access[name])]
    hosts = [*addresses.values(), *_cloud_hosts(clouds, preferences.env)]
    if not clouds and not any(name.endswith("BASE_URL") for name in addresses):
        hosts.append(host_of(profile.base_url))
    if _has_login(profile, preferences.model_access):
        hosts += profile.login_hosts
    yield from (host for host in hosts if host and is_public_host(host))


def _is_set(flag: Secret) -> bool:
    return flag.reveal().strip().lower() not in {"", "0", "false", "no", "off"}


def _cloud_hosts(clouds: Iterable[UserCloud], env: Mapping[str, Secret]) -> Iterator[str]:
    for cloud in clouds:
        place = next((env[name].reveal().strip().lower() for name in cloud.variables if name in env), cloud.default)
        yield from (host.format(place) for host in cloud.hosts)


def _has_login(profile: AgentProfile, access: Collection[str]) -> bool:
    variables = (CREDENTIALS, *profile.login_variables)
    return any(fnmatchcase(name, each) for name in access for each in variables)
