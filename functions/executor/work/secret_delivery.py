"""How the git token and the model key get to where they are needed, and what a sandbox may reach meanwhile.

Two ways, by the setting SANDBOX_SECRETS:

- *egress*: E2B keeps the secret and puts it into the header of requests to one host, outside the sandbox, which never
  holds it. It takes an address with https and a name. While its rule is live, whatever runs in the sandbox can use the
  secret there, so it is taken back before the run leaves the phase that needs it.
- *file*: the sandbox gets it in a file that only root can read. Where E2B does not offer the other way to this team, or
  where its secrets stay out of order, `auto` falls back on it.

Each of these calls may be made again after a crash.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace

from functions.executor.context import StepContext
from functions.executor.errors import InjectionUnavailable, SandboxGone
from functions.executor.ports import Ports
from functions.executor.work.jobs import RunFolder
from functions.executor.work.workspace import repository_of
from shared.domain.agents import AgentName
from shared.domain.errors import RunFailed, Unavailable
from shared.domain.network import (
    OPEN_NETWORK,
    HeaderRule,
    SandboxNetwork,
    host_of,
    restricted_network,
    takes_headers,
)
from shared.domain.repository import Repository
from shared.domain.run import Advance, Outcome, Phase, Run
from shared.domain.secret import Secret
from shared.observability import get_logger, register_secret

logger = get_logger("executor")

# The phases that need a secret, and what it is called.
SECRETS = {Phase.CLONING: "git", Phase.AGENT: "model"}
# Attempts at a step for which E2B's secrets may be out of order; then the run gets along without them.
PATIENCE = 3
STAND_IN = "put-in-outside-the-sandbox"  # for a program that does not start without a key
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
# E2B opens TLS to put a secret in; its certificate is in the system's bundle, which programs only read when told to.
TRUSTING_E2B = dict.fromkeys(("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "GIT_SSL_CAINFO"), CA_BUNDLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A secret for requests to one origin: it stands in `header`, behind `scheme`."""

    origin: str
    header: str
    scheme: str
    value: Secret


def network_of(ctx: StepContext) -> SandboxNetwork:
    """What the run's sandbox may reach. Raises RunFailed for a repository that may not be cloned."""
    settings = ctx.settings
    if settings.sandbox_network == "open":
        return OPEN_NETWORK
    return restricted_network(
        repository_origin=repository_of(ctx).origin,
        agent=ctx.run.agent,
        base_url=settings.models[ctx.run.agent].base_url,
        preferences=ctx.secrets.preferences()[0],
        registries=settings.sandbox_registries,
        project_hosts=ctx.secrets.project_network()[0],
    )


def git_by_egress(ctx: StepContext, repository: Repository, token: Secret) -> bool:
    """Whether the clone gets along without the token, since its requests are given it; else it needs a file."""
    # git's smart HTTP wants Basic, and a placeholder is replaced as it is: so the whole of it is the secret.
    basic = Secret(base64.b64encode(f"x-access-token:{token.reveal()}".encode()).decode())
    grant = Grant(origin=repository.origin, header="Authorization", scheme="Basic ", value=basic)
    return _by_egress(ctx, grant)


def model_key(
    ctx: StepContext, key: Secret | None, names: tuple[str, ...]
) -> tuple[Mapping[str, str], Mapping[str, Secret]]:
    """Variables for the agent in which it finds the deployment's key: plain ones, and secret ones."""
    if key is None:
        return {}, {}
    header, scheme = ctx.run.agent.profile.key_header
    grant = Grant(origin=_model_origin(ctx.run.agent, ctx.ports), header=header, scheme=scheme, value=key)
    if _by_egress(ctx, grant):
        return {**TRUSTING_E2B, **dict.fromkeys(names, STAND_IN)}, {}
    return {}, dict.fromkeys(names, key)


def left(ctx: StepContext, outcome: Outcome) -> None:
    """To be called before an outcome is saved: what the phase was given is taken back when the run goes on."""
    if not isinstance(outcome, Advance) or outcome.phase in (None, ctx.run.phase) or not _may_hold(ctx):
        return
    if ctx.run.sandbox_id:
        ctx.ports.sandboxes.set_network(ctx.run.sandbox_id, network_of(ctx))
    try:
        ctx.ports.sandboxes.destroy_secret(_name(ctx.run))
    except Unavailable as error:
        if ctx.run.attempt < PATIENCE:
            raise
        # Without its rule it is of no use to the sandbox, and the reaper destroys it when the run has ended.
        logger.warning("secret.not_destroyed", extra={"secret": SECRETS[ctx.run.phase], **error.for_log()})


def destroy(ctx: StepContext) -> None:
    """The same of a run that has ended, whose sandbox is killed."""
    if _may_hold(ctx):
        ctx.ports.sandboxes.destroy_secret(_name(ctx.run))


def was_in_sandbox(folder: RunFolder, job: str, ports: Ports) -> bool:
    """Whether the job got its secret in a file."""
    if ports.settings.sandbox_secrets == "file":
        return True
    try:
        env = folder.request_of(job).env
    except RunFailed as error:
        if error.error_code == "sandbox_file_missing":  # it was never started in this sandbox by this run
            return False
        raise
    return not TRUSTING_E2B.keys() <= env.keys()


def _by_egress(ctx: StepContext, grant: Grant) -> bool:
    if ctx.settings.sandbox_secrets == "file" or not takes_headers(grant.origin):
        return False
    try:
        _inject(ctx, grant)
    except (InjectionUnavailable, Unavailable) as error:
        if isinstance(error, Unavailable) and ctx.run.attempt < PATIENCE:
            raise
        if ctx.settings.sandbox_secrets == "egress":
            raise RunFailed(
                "Secrets must stay outside of sandboxes here (SANDBOX_SECRETS=egress), and E2B does not do that.",
                error_code="injection_unavailable",
                **error.context,
            ) from error
        logger.warning("secret.by_file", extra={"secret": SECRETS[ctx.run.phase], **error.for_log()})
        return False
    logger.info("secret.by_egress", extra={"secret": SECRETS[ctx.run.phase]})
    return True


def _inject(ctx: StepContext, grant: Grant) -> None:
    """Raises InjectionUnavailable, and SandboxGone when the run has no sandbox."""
    if ctx.run.sandbox_id is None:
        raise SandboxGone(run_id=ctx.run.id)
    register_secret(grant.value)
    name, host = _name(ctx.run), host_of(grant.origin) or ""
    rule = HeaderRule(host=host, header=grant.header, scheme=grant.scheme, secret=name)
    network = replace(network_of(ctx), rules=(rule,))
    ctx.ports.sandboxes.store_secret(name, ctx.run.id, grant.value)
    try:
        ctx.ports.sandboxes.set_network(ctx.run.sandbox_id, network)
    except InjectionUnavailable:
        ctx.ports.sandboxes.destroy_secret(name)
        raise


def _may_hold(ctx: StepContext) -> bool:
    """Whether the run's phase may have been given a secret by egress, by this executor or another one."""
    if ctx.settings.sandbox_secrets == "file" or ctx.run.phase not in SECRETS:
        return False
    if ctx.run.phase is Phase.AGENT:
        return takes_headers(_model_origin(ctx.run.agent, ctx.ports))
    try:
        return takes_headers(repository_of(ctx).origin)
    except RunFailed:
        return False


def _name(run: Run) -> str:
    return f"run-{run.id}-{SECRETS[run.phase]}"


def _model_origin(agent: AgentName, ports: Ports) -> str:
    return ports.settings.models[agent].base_url or agent.profile.base_url
