"""Sandboxes at E2B. With sandbox_errors, the only module that imports e2b."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import cast

from e2b import ALL_TRAFFIC, Sandbox, SandboxQuery
from e2b import Secret as KeptSecret
from e2b.connection_config import ApiParams
from e2b.exceptions import SecretException
from e2b.sandbox.commands.command_handle import CommandExitException
from e2b.sandbox.filesystem.filesystem import WriteEntry
from e2b.sandbox.sandbox_api import SandboxNetworkOpts, SandboxNetworkUpdate

from functions.executor.e2b.errors import refused, speaking_of_a_sandbox, speaking_our_errors, status_of
from functions.executor.errors import InjectionUnavailable, failed_command
from functions.executor.ports import SandboxInfo, StoredSecret
from shared.domain.errors import Unavailable
from shared.domain.network import SandboxNetwork
from shared.domain.run import Run
from shared.domain.secret import Secret

APP = "async-code"
REQUEST_TIMEOUT_S = 20  # the control plane answers in well under a second; a step has 120 s in all
FILE_TIMEOUT_S = 60  # a result of 50 MB over a slow line
CONFLICT = 409  # there is a secret of this name
USER = "root"
# Of our own programs, and of git as root: no folder in which a template or an agent may have put programs of its own.
ROOT_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# The user that the agent runs as, as sandbox/e2b.Dockerfile makes it.
AGENT_USER, AGENT_HOME = "agent", "/home/agent"


class E2BSandboxes:
    """The sandboxes of one deployment: `deployment` keeps two that share an E2B team apart, for the reaper above all.

    `lease_s`: how long a sandbox lives after the last look at it. Then it pauses, and a late step resumes it.
    `python`: the interpreter of our programs in a sandbox. `agent_path`: the PATH of the agent and of setup scripts.
    """

    def __init__(
        self, *, api_key: Secret, template: str, deployment: str, lease_s: int, python: str, agent_path: str
    ) -> None:
        self._api_key = api_key
        self._python = python
        self._agent_path = agent_path
        self._template = template
        self._deployment = deployment
        self._lease_s = lease_s
        self._can_inject = True

    def find(self, run_id: str) -> str | None:
        """The id of the run's sandbox, running or paused."""
        return next((found.id for found in self._list({"run_id": run_id})), None)

    def create(self, run: Run, network: SandboxNetwork) -> str:
        """A new sandbox for the run. Repeating the call for the same run gives the same sandbox."""
        with speaking_our_errors(creating=True):
            sandbox = Sandbox.create(
                template=self._template,
                timeout=self._lease_s,
                metadata=self._ours({"run_id": run.id, "task_id": str(run.task_id), "user_id": run.user_id}),
                lifecycle={"on_timeout": "pause", "auto_resume": False},
                network=cast(SandboxNetworkOpts, {"allow_public_traffic": False, **_egress(network)}),
                idempotency_key=run.id,
                **self._options(),
            )
        return sandbox.sandbox_id

    def attach(self, sandbox_id: str) -> "E2BSandboxConnection":
        """The running sandbox, with at least `lease_s` to live; a paused one is resumed."""
        with speaking_our_errors():
            sandbox = Sandbox.connect(
                sandbox_id,
                timeout=self._lease_s,
                **self._options(),
            )
        return E2BSandboxConnection(sandbox, python=self._python, agent_path=self._agent_path)

    def kill(self, sandbox_id: str) -> None:
        """End it; it may be gone already."""
        with speaking_our_errors():
            Sandbox.kill(sandbox_id, **self._options())

    def pause(self, sandbox_id: str) -> None:
        """Let it stand still, all it holds kept, until somebody attaches or kills it. It may be paused already."""
        with speaking_our_errors():
            Sandbox.pause(sandbox_id, **self._options())

    def list_ours(self) -> Iterator[SandboxInfo]:
        """Every sandbox of this deployment, running or paused."""
        return self._list({})

    def set_network(self, sandbox_id: str, network: SandboxNetwork) -> None:
        """Replace what it may reach, and its rules. Raises InjectionUnavailable where this team may have no rules."""
        refusal = InjectionUnavailable if network.rules else refused
        with self._remembering(), speaking_our_errors(refusal=refusal):
            Sandbox.update_network(sandbox_id, _egress(network), **self._options())

    def store_secret(self, name: str, run_id: str, value: Secret) -> None:
        """Keep the value at E2B; one of the same name is replaced.

        Raises InjectionUnavailable, and once E2B has refused secrets or rules without asking it again.
        """
        if not self._can_inject:
            raise InjectionUnavailable("E2B has refused it before.")
        metadata = self._ours({"run_id": run_id})
        with self._remembering(), speaking_our_errors(refusal=InjectionUnavailable):
            try:
                KeptSecret.create(name, value.reveal(), metadata, **self._options())
            except SecretException as error:
                if status_of(error) != CONFLICT:
                    raise
                KeptSecret.update(name, value.reveal(), metadata, **self._options())

    def destroy_secret(self, name: str) -> None:
        """It may be gone already. Where the team has no secrets, there is none."""
        with suppress(InjectionUnavailable), speaking_our_errors(refusal=InjectionUnavailable):
            KeptSecret.destroy(name, **self._options())

    def list_secrets(self) -> Iterator[StoredSecret]:
        """Those of this deployment; none where the team has no secrets."""
        with suppress(InjectionUnavailable), speaking_our_errors(refusal=InjectionUnavailable):
            pages = KeptSecret.list(**self._options())
            while pages.has_next:
                for info in pages.next_items():
                    if self._ours({}).items() <= info.metadata.items():
                        yield StoredSecret(name=info.name, run_id=info.metadata.get("run_id", ""))

    @contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except InjectionUnavailable:
            self._can_inject = False
            raise

    def _options(self) -> ApiParams:
        return {"api_key": self._api_key.reveal(), "request_timeout": REQUEST_TIMEOUT_S}

    def _ours(self, metadata: Mapping[str, str]) -> dict[str, str]:
        return {"app": APP, "deployment": self._deployment, **metadata}

    def _list(self, metadata: Mapping[str, str]) -> Iterator[SandboxInfo]:
        with speaking_our_errors():
            pages = Sandbox.list(
                SandboxQuery(metadata=self._ours(metadata)),
                **self._options(),
            )
            while pages.has_next:
                for info in pages.next_items():
                    yield SandboxInfo(
                        id=info.sandbox_id, run_id=info.metadata.get("run_id", ""), started_at=info.started_at
                    )


def _egress(network: SandboxNetwork) -> SandboxNetworkUpdate:
    """Names are allowed only where all else is denied, and rules hold the name of a secret, never its value."""
    egress: SandboxNetworkUpdate = {}
    if network.hosts is not None:
        egress |= {"allow_out": list(network.hosts), "deny_out": [ALL_TRAFFIC]}
    if network.rules:
        egress["rules"] = {
            rule.host: [{"transform": {"headers": {rule.header: f"{rule.scheme}{KeptSecret.fill(rule.secret)}"}}}]
            for rule in network.rules
        }
    return egress


class E2BSandboxConnection:
    """One running sandbox. Each command has a finite timeout: the SDK's streams have none of their own.

    After a call that was Unavailable, each further one is, too: envd may have restarted, and one that was not told the
    sandbox's token yet answers to anything in it. Attach again before the next answer is believed.

    A command depends on nothing that a template sets. envd starts it in a login shell, in the template's default
    folder, with the template's PATH; so each one is given its folder, and by `env` its whole environment.
    """

    def __init__(self, sandbox: Sandbox, *, python: str, agent_path: str) -> None:
        self._sandbox = sandbox
        self._lost = False
        self._python = python
        self._environment = {
            "PATH": ROOT_PATH,
            "HOME": "/root",
            "USER": USER,
            "LOGNAME": USER,
            "LANG": "C.UTF-8",
            "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's
            "AGENT_USER": AGENT_USER,
            "AGENT_HOME": AGENT_HOME,
            "AGENT_PATH": agent_path,
        }

    @contextmanager
    def _asking(self) -> Iterator[None]:
        if self._lost:
            raise Unavailable("The sandbox is not responding.", reason="not attached again")
        try:
            with speaking_of_a_sandbox():
                yield
        except Unavailable:
            self._lost = True
            raise

    def upload(self, files: Mapping[str, bytes]) -> None:
        """Write files as root; folders are made. Contents do not pass through envd's logs, as arguments would."""
        entries = [WriteEntry(path=path, data=data) for path, data in files.items()]
        with self._asking():
            self._sandbox.files.write_files(entries, user=USER, request_timeout=FILE_TIMEOUT_S)

    def read(self, path: str) -> bytes:
        """The file's bytes. Raises RunFailed when there is none."""
        with self._asking():
            return bytes(self._sandbox.files.read(path, format="bytes", user=USER, request_timeout=FILE_TIMEOUT_S))

    def run_python(self, program: str, *arguments: str, timeout_s: int) -> str:
        """The last line that the program printed: before it stands what the template's login files print.

        Python is isolated (-I) and without its site packages (-S): the folder of the program, variables and files of
        /usr/local do not decide what is imported. Raises what `failed_command` says when it exits non-zero. No secret
        may be in `arguments`: they can be read in the sandbox, and envd logs them.
        """
        env = [f"{name}={value}" for name, value in self._environment.items()]
        argv = ["/usr/bin/env", "-i", *env, self._python, "-I", "-S", program, *arguments]
        # The line break ends what a login file may have printed without one.
        command = f"echo; exec {shlex.join(argv)}"
        try:
            with self._asking():
                printed = self._sandbox.commands.run(command, user=USER, cwd="/", timeout=timeout_s).stdout
        except CommandExitException as error:
            raise failed_command(error.exit_code, error.stderr) from error
        return printed.strip().rpartition("\n")[2]
