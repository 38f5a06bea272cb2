"""The gateway as the official JavaScript client sees it: each check of supabase_js/*.mjs is a test here."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest

SOURCES = Path(__file__).parent / "supabase_js"
CACHE = Path(__file__).parents[2] / ".local" / "cache"
SCRIPTS = ("frontend", "reading", "writing", "rights", "sessions")
INSTALL_LIMIT_S, RUN_LIMIT_S = 120, 60
NAMED_CHECK = re.compile(r'^test\("(.+?)",', re.MULTILINE)


def checks_of(script):
    return NAMED_CHECK.findall((SOURCES / f"{script}.mjs").read_text())


@pytest.fixture(scope="session")
def node_modules(node_and_npm):
    """The locked packages, installed once per lock file."""
    lock = (SOURCES / "package-lock.json").read_bytes()
    home = CACHE / f"supabase-js-{hashlib.sha256(lock).hexdigest()[:12]}"
    if not home.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{home.name}-", dir=CACHE) as staging:
            packages = Path(staging, "packages")
            packages.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(SOURCES / name, packages)
            npm_ci(node_and_npm[1], packages)
            try:
                packages.rename(home)
            except OSError:
                if not home.exists():  # else a faster process has put it there
                    raise
    return home / "node_modules"


def npm_ci(npm, folder):
    argv = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=INSTALL_LIMIT_S)
    if done.returncode != 0:
        pytest.fail(f"npm ci could not install supabase-js:\n{done.stdout}{done.stderr}", pytrace=False)


@pytest.fixture(scope="module")
def outcomes(fresh_database, make_gateway, node_and_npm, node_modules, tmp_path_factory):
    """By script and check: why it failed, or None."""
    dsn = fresh_database()
    with psycopg.connect(dsn) as connection:
        connection.execute((SOURCES / "schema.sql").read_text())
    # Node looks for packages beside the script, so the scripts get a folder that has them.
    folder = tmp_path_factory.mktemp("supabase_js") / "checks"
    shutil.copytree(SOURCES, folder)
    (folder / "node_modules").symlink_to(node_modules)
    environment = os.environ | settings_of(make_gateway(dsn))
    return {script: run(node_and_npm[0], folder, script, environment) for script in SCRIPTS}


def settings_of(gateway):
    return {
        "SUPABASE_URL": gateway.url,
        "SUPABASE_PUBLISHABLE_KEY": gateway.publishable_key,
        "SUPABASE_SECRET_KEY": gateway.secret_key,
        "JWT_SECRET": gateway.jwt_secret,
    }


def run(node, folder, script, environment):
    """Run all checks of a script. Those that it did not come to have failed, for what it said at its end."""
    report = folder / f"{script}.jsonl"
    report.touch()
    argv = [*node, "--test-reporter=./reporter.mjs", f"--test-reporter-destination={report}", f"{script}.mjs"]
    done = subprocess.run(
        argv,
        cwd=folder,
        env=environment,
        timeout=RUN_LIMIT_S,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    outcomes = dict.fromkeys(checks_of(script), f"It did not run. {script}.mjs said:\n{done.stdout}")
    outcomes |= {line["name"]: line["failure"] for line in map(json.loads, report.read_text().splitlines())}
    return outcomes


@pytest.mark.parametrize(("script", "check"), [(script, check) for script in SCRIPTS for check in checks_of(script)])
def test_supabase_js(outcomes, script, check):
    failure = outcomes[script][check]
    if failure is not None:
        pytest.fail(failure, pytrace=False)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_check_of_a_script_is_a_test_here(outcomes, script):
    checks = checks_of(script)
    assert sorted(outcomes[script]) == sorted(checks)
    assert len(checks) == (SOURCES / f"{script}.mjs").read_text().count("test(")


def test_the_lock_file_names_no_registry():
    packages = json.loads((SOURCES / "package-lock.json").read_text())["packages"]
    assert [name for name, package in packages.items() if "resolved" in package] == []
