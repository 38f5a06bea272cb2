"""git and the real agents where somebody opens their TLS and puts the secret in, as E2B's egress proxy does.

What that proxy itself does, only E2B can show. Here it is played by servers with a certificate of an authority that
nobody knows but the bundle in the variables of a job, and which put the header of the executor's rule in.
"""

import base64
import datetime
import json
import os
import subprocess
from contextlib import contextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from functions.executor.agents import DRIVERS, ReaderState
from functions.executor.work.secret_delivery import STAND_IN, TRUSTING_E2B
from local.mirrors import TOKEN_FILE, make_sample_repository, publish
from local.services.git.server import create_app
from local.services.model.app import create_model
from shared.domain.agents import AgentName
from tests.fixtures.agents.cli import KEY, Workplace, running_model
from tests.sandbox_programs import command, install

TOKEN = "ghp_onlyTheProxyKnows"
BASIC = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()


class Authority:
    """Signs certificates; `bundle` holds its own, and the path of one for localhost with its key is `localhost`."""

    def __init__(self, folder):
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Egress proxy")])
        own = self._certificate("Egress proxy", self._key, x509.BasicConstraints(ca=True, path_length=0))
        self.bundle, self.localhost = folder / "bundle.pem", folder / "localhost.pem"
        self.bundle.write_bytes(own)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certificate("localhost", key, x509.SubjectAlternativeName([x509.DNSName("localhost")]))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.localhost.write_bytes(certificate + private)

    def _certificate(self, name, key, extension):
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(
            subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            issuer_name=self._name,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(minutes=5),
            not_valid_after=now + datetime.timedelta(days=1),
        ).add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    @property
    def variables(self):
        return dict.fromkeys(TRUSTING_E2B, str(self.bundle))


class Injecting:
    """An application that sees the header of a rule in each request, and of the given ones what was there before."""

    def __init__(self, app, header, value):
        self._app, self._header, self._value = app, header.lower().encode(), value.encode()
        self.seen = set()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            self.seen |= {value.decode() for name, value in scope["headers"] if name == self._header}
            others = [(name, value) for name, value in scope["headers"] if name != self._header]
            scope = scope | {"headers": [*others, (self._header, self._value)]}
        await self._app(scope, receive, send)


@contextmanager
def serving(app, authority):
    with running_model(app, ssl_certfile=authority.localhost) as url:
        yield url.replace("http://127.0.0.1", "https://localhost")


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def place(tmp_path):
    return Workplace.create(tmp_path / "user")


@pytest.mark.parametrize("agent", list(AgentName))
def test_an_agent_with_a_stand_in_for_its_key_trusts_the_bundle_and_works(agent, place, authority):
    header, scheme = agent.profile.key_header
    app = Injecting(create_model(KEY), header, f"{scheme}{KEY}")

    with serving(app, authority) as url:
        ended = place.run(agent, "@write good.txt: good", url, key=STAND_IN, env=authority.variables)

    _, state = DRIVERS[agent].read(ended.stdout, ReaderState.start(workdir=str(place.repo), model="gpt-6.1-sol"))
    assert (ended.returncode, state.result and state.result.ok) == (0, True), ended.stderr.decode()
    assert (place.repo / "good.txt").read_text().strip() == "good"
    assert f"{scheme}{STAND_IN}" in app.seen  # the header is the one that the agent itself would use
    assert KEY not in str(app.seen)


@pytest.fixture
def private_repository(tmp_path):
    source, root = tmp_path / "source", tmp_path / "root"
    make_sample_repository(source)
    publish(root, "o", "r", source)
    (root / "o" / "r.git" / TOKEN_FILE).write_text(TOKEN)
    return root


def clone(folder, url, env):
    run, home = folder / "run", folder / "home"
    run.mkdir()
    home.mkdir()
    programs = install(run)
    spec = {"url": f"{url}/o/r", "branch": "main", "depth": 50, "token_file": None}
    spec |= {"base_git": "base.git", "work_tree": "repo", "timeout_s": 60}
    (run / "spec.json").write_text(json.dumps(spec))
    env = {"PATH": os.environ["PATH"], "AGENT_USER": "", "AGENT_HOME": str(home), **env}
    argv = command(programs, "clone", "spec.json")
    return json.loads(subprocess.run(argv, env=env, capture_output=True, check=True, timeout=90).stdout)


def test_a_private_repository_is_cloned_by_a_git_that_knows_no_token(tmp_path, authority, private_repository):
    app = Injecting(create_app(private_repository), "Authorization", f"Basic {BASIC}")

    with serving(app, authority) as url:
        answer = clone(tmp_path, url, authority.variables)

    assert answer["ok"], answer
    assert (tmp_path / "home" / "repo" / "README.md").exists()
    assert app.seen == set()
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(secret.encode() in path.read_bytes() for path in files for secret in (TOKEN, BASIC))


def test_where_the_header_is_not_put_in_the_clone_says_so(tmp_path, authority, private_repository):
    with serving(create_app(private_repository), authority) as url:
        answer = clone(tmp_path, url, authority.variables)

    assert (answer["ok"], answer["error"]) == (False, "auth")


def test_without_the_bundle_nobody_is_trusted(tmp_path, authority, private_repository):
    with serving(create_app(private_repository), authority) as url:
        answer = clone(tmp_path, url, {})

    assert (answer["ok"], answer["error"]) == (False, "failed")
    assert "certificate" in answer["message"]
