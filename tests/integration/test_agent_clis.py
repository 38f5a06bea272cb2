"""Fetching an agent's program with the real pip, from a folder of wheels instead of the network."""

import contextlib
import fcntl
import http.server
import os
import subprocess
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from local import agent_clis
from local.agent_clis import Cli, CliFetchError, ensure_cli

PARROT = Cli(title="Parrot", package="parrot-cli", version="1.2", program="parrot_cli/_bundled/parrot", size_mb=1)


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A package index with one wheel, that of PARROT."""
    monkeypatch.setitem(agent_clis.CLIS, "parrot", PARROT)
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "parrot_cli-1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("parrot_cli/_bundled/parrot", "#!/bin/sh\necho squawk\n")
        wheel.writestr("parrot_cli-1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: parrot-cli\nVersion: 1.2\n")
        wheel.writestr(
            "parrot_cli-1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("parrot_cli-1.2.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_program_is_fetched_once_and_runs(wheels, tmp_path):
    told = []

    programs = ensure_cli("parrot", tmp_path / "cache", told.append)
    (wheels / "parrot_cli-1.2-py3-none-any.whl").unlink()

    assert ensure_cli("parrot", tmp_path / "cache", told.append) == programs
    assert programs == tmp_path / "cache" / "agents" / "parrot-1.2" / "bin"
    assert subprocess.check_output([programs / "parrot"]) == b"squawk\n"
    assert told[0] == "Fetching Parrot (parrot-cli 1.2, about 1 MB, only once)"
    assert told[-1] == "Parrot is ready."


def test_two_that_ask_at_once_both_get_the_whole_program(wheels, tmp_path):
    told = []
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: ensure_cli("parrot", tmp_path / "cache", told.append), range(2)))

    assert found[0] == found[1]
    assert subprocess.check_output([found[0] / "parrot"]) == b"squawk\n"
    assert stored(tmp_path / "cache") == ["parrot-1.2"]
    assert told.count("Fetching Parrot (parrot-cli 1.2, about 1 MB, only once)") == 1


def stored(cache):
    return [path.name for path in (cache / "agents").iterdir() if path.name != ".parrot.lock"]


def test_what_a_killed_download_left_is_removed_by_the_next_start(wheels, tmp_path):
    leave_half_a_download(tmp_path / "cache")
    ensure_cli("parrot", tmp_path / "cache")
    assert stored(tmp_path / "cache") == ["parrot-1.2"]

    leave_half_a_download(tmp_path / "cache")
    ensure_cli("parrot", tmp_path / "cache")
    assert stored(tmp_path / "cache") == ["parrot-1.2"], "also when there is nothing to fetch"


def leave_half_a_download(cache):
    half = cache / "agents" / ".parrot-1.2-abcdefgh" / "downloads"
    half.mkdir(parents=True)
    (half / "half.whl").write_bytes(b"x" * 1000)


def test_what_another_process_fetches_now_is_left_alone_and_waited_for(wheels, tmp_path):
    cache = tmp_path / "cache"
    leave_half_a_download(cache)
    waiting = threading.Event()
    told = []

    def tell(text):
        told.append(text)
        waiting.set()

    with (cache / "agents" / ".parrot.lock").open("w") as lock, ThreadPoolExecutor(1) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        asked = pool.submit(ensure_cli, "parrot", cache, tell)
        assert waiting.wait(60)
        assert told == ["Waiting for another process that fetches Parrot"]
        assert stored(cache) == [".parrot-1.2-abcdefgh"]
        fcntl.flock(lock, fcntl.LOCK_UN)
        asked.result(60)
    assert stored(cache) == ["parrot-1.2"]


def test_a_program_that_is_there_does_not_wait_for_another_process(wheels, tmp_path):
    cache = tmp_path / "cache"
    programs = ensure_cli("parrot", cache)
    leave_half_a_download(cache)
    with (cache / "agents" / ".parrot.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert ensure_cli("parrot", cache) == programs
    assert sorted(stored(cache)) == [".parrot-1.2-abcdefgh", "parrot-1.2"]


def test_the_users_of_a_sandbox_can_run_a_program_that_was_fetched_under_a_closed_umask(wheels, tmp_path):
    before = os.umask(0o077)
    try:
        home = ensure_cli("parrot", tmp_path / "cache").parent
        assert_open(home)
        for path in (home, *home.rglob("*")):  # as earlier versions left it
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o700)
        ensure_cli("parrot", tmp_path / "cache")
        assert_open(home)
    finally:
        os.umask(before)


def assert_open(home):
    closed = [
        path
        for path in (home, *home.rglob("*"))
        if path.stat().st_mode & 0o055 != (0o055 if path.is_dir() or path.stat().st_mode & 0o100 else 0o044)
    ]
    assert closed == []


OF_OTHER_PROJECTS = {
    "PIP_USER": "1",
    "PIP_TARGET": "/nonexistent/target",
    "PIP_PREFIX": "/nonexistent/prefix",
    "PIP_ROOT": "/nonexistent/root",
    "PIP_REQUIRE_VIRTUALENV": "1",
    "PIP_REQUIRE_HASHES": "1",
    "PIP_DRY_RUN": "1",
    "PIP_PLATFORM": "win32",
    "PIP_PYTHON_VERSION": "2.7",
    "PIP_CONSTRAINT": "/nonexistent/constraints.txt",
    "PIP_REQUIREMENT": "/nonexistent/requirements.txt",
    "PIP_NO_BINARY": ":all:",
    "PIP_CERT": "/nonexistent/ca.pem",
    "SSL_CERT_FILE": "/nonexistent/ca.pem",
    "REQUESTS_CA_BUNDLE": "/nonexistent/ca.pem",
    "PIP_LOG": "/nonexistent/log",
    "PYTHONPATH": "/nonexistent/python",
    "PYTHONSAFEPATH": "1",
}


def test_what_the_person_has_set_for_other_projects_does_not_mislead_pip(wheels, tmp_path, monkeypatch):
    for name, value in OF_OTHER_PROJECTS.items():
        monkeypatch.setenv(name, value)
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nuser = true\nquiet = 3\nlog = /nonexistent/log\n"
        "require-hashes = true\nconstraint = /nonexistent/c.txt\nprefix = /nonexistent/p\n"
        f"find-links = /nonexistent/links\n[install]\nfind-links = {wheels}\nno-index = true\ndry-run = true\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):  # so that only the file says where the wheel is
        monkeypatch.delenv(name)

    programs = ensure_cli("parrot", tmp_path / "cache")

    assert subprocess.check_output([programs / "parrot"]) == b"squawk\n"


def test_a_cache_that_cannot_be_written_is_said_in_a_sentence(wheels, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder would be")
    with pytest.raises(CliFetchError, match=r"Parrot cannot be stored in .*: Not a directory\."):
        ensure_cli("parrot", tmp_path / "cache")


@contextlib.contextmanager
def answering(code):
    """The address of a server that answers every request with `code`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_CONNECT = do_GET  # noqa: N815 - the name that http.server looks for

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def index(wheels, monkeypatch):
    """Lets pip look at this address instead of the folder of wheels."""

    def use(url):
        monkeypatch.setenv("PIP_INDEX_URL", url)
        monkeypatch.setenv("PIP_RETRIES", "0")

    for name in (*("PIP_NO_INDEX", "PIP_FIND_LINKS"), *(f"{kind}_proxy" for kind in ("http", "https", "all", "no"))):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return use


def test_a_proxy_that_refuses_is_said_in_a_sentence(index, tmp_path, monkeypatch):
    index("https://index.example/simple")
    with answering(407) as url:
        monkeypatch.setenv("https_proxy", url)
        with pytest.raises(CliFetchError, match="the proxy lets no request pass"):
            ensure_cli("parrot", tmp_path / "cache")


def test_an_index_that_refuses_is_said_in_a_sentence(index, tmp_path):
    with answering(403) as url:
        index(f"{url}/simple")
        with pytest.raises(CliFetchError, match="the package index answers `403 Client Error: Forbidden`"):
            ensure_cli("parrot", tmp_path / "cache")


def test_an_index_without_the_package_is_not_taken_for_a_broken_network(index, tmp_path):
    with answering(404) as url:
        index(f"{url}/simple")
        with pytest.raises(CliFetchError, match="has no build for this platform or Python"):
            ensure_cli("parrot", tmp_path / "cache")


@pytest.mark.parametrize(
    ("exit_code", "said", "sentence"),
    [
        (1, "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        (1, "SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] self-signed')", "is not trusted"),
        (1, "/usr/bin/python3: No module named pip", "-m ensurepip"),
        (-9, "", "ended by signal 9"),
        (1, "ERROR: something else", "could not be fetched: ERROR: something else"),
    ],
)
def test_what_stops_pip_is_said_in_a_sentence(exit_code, said, sentence):
    assert sentence in agent_clis._why(PARROT, exit_code, said)


def test_no_wheel_for_this_platform_is_said_in_a_sentence(wheels, tmp_path):
    (wheels / "parrot_cli-1.2-py3-none-any.whl").rename(wheels / "parrot_cli-1.2-py3-none-win32.whl")

    with pytest.raises(CliFetchError, match=r"Parrot \(parrot-cli 1\.2\) has no build for this platform"):
        ensure_cli("parrot", tmp_path / "cache")
    assert stored(tmp_path / "cache") == []


def test_no_network_is_said_in_a_sentence(wheels, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")

    with pytest.raises(CliFetchError, match="the package index cannot be reached"):
        ensure_cli("parrot", tmp_path / "cache")


def test_a_wheel_without_the_program_is_said_in_a_sentence(wheels, tmp_path, monkeypatch):
    monkeypatch.setitem(
        agent_clis.CLIS, "parrot", Cli(title="Parrot", package="parrot-cli", version="1.2", program="x/y", size_mb=1)
    )

    with pytest.raises(CliFetchError, match="carries no x/y for this platform"):
        ensure_cli("parrot", tmp_path / "cache")


def test_an_agent_nobody_knows_is_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(KeyError):
        ensure_cli("eliza", tmp_path)
