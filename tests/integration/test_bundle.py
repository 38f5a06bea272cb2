"""What is deployed is whole: a bundle runs with nothing beside it but Python's own library.

The bundles are made by the targets that `sam build` calls, here for this machine and this Python.
"""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import archive

ROOT = Path(__file__).parents[2]
MACHINE = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
# Names of Lambda's own, and what the template sets in both functions and in each of them.
ENVIRONMENT = {
    "AWS_REGION": "eu-central-1",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "ENVIRONMENT": "production",
    "SUPABASE_URL": "https://project.supabase.co",
    "TASK_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/tasks",
    "SECRETS_KMS_KEY_ID": "alias/git-tokens",
    "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_key",
    "SUPABASE_SECRET_KEY": "sb_secret_key",
    "JWT_SECRET": "a-secret-of-at-least-thirty-two-bytes",
    "E2B_API_KEY": "e2b_key",
}
# Imports the handlers with the bundle alone on the path; prints which modules came from where else.
PROBE = """
import importlib, sys, sysconfig
bundle, *handlers = sys.argv[1:]
sys.path.insert(0, bundle)
for handler in handlers:
    module, name = handler.rsplit(".", 1)
    assert callable(getattr(importlib.import_module(module), name))
library = (bundle + "/", sysconfig.get_path("stdlib") + "/", sysconfig.get_path("platstdlib") + "/")
files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
strangers = [name for name, file in files.items() if file and not file.startswith(library)]
print("strangers:", *strangers)
print("loaded:", *sorted({name.partition(".")[0] for name in files}))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the bundles hold Linux programs")


def build(function, folder):
    """The bundle of one function, as `sam build` gets it."""
    make = ["make", "--no-print-directory", f"build-{function}", f"ARTIFACTS_DIR={folder}", f"ARCH={MACHINE}"]
    here = [f"VENV={sys.prefix}", f"RUNTIME_PYTHON={sys.version_info.major}.{sys.version_info.minor}"]
    done = subprocess.run([*make, *here], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def loaded_from(bundle, *handlers):
    """Names of the packages that importing the handlers loads. Nothing may come from outside the bundle."""
    argv = [sys.executable, "-I", "-S", "-c", PROBE, str(bundle), *handlers]
    done = subprocess.run(argv, env=ENVIRONMENT, cwd=bundle, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    strangers, loaded = (line.split()[1:] for line in done.stdout.splitlines()[-2:])
    assert strangers == []
    return set(loaded)


def contents(folder):
    return {path.name for path in folder.iterdir()}


def test_the_api_runs_from_its_bundle_alone_which_brings_no_sandbox_library(tmp_path):
    bundle = build("ApiFunction", tmp_path)

    assert "fastapi" in loaded_from(bundle, "functions.api.handler.handler")
    assert not {"e2b", "local", "tests", "sandbox"} & contents(bundle)
    assert "executor" not in contents(bundle / "functions")


def test_the_executor_runs_from_its_bundle_alone_which_brings_no_web_framework(tmp_path):
    bundle = build("ExecutorFunction", tmp_path)
    handlers = [f"functions.executor.{module}.handler" for module in ("handler", "dead_letters", "reaper")]

    assert "e2b" in loaded_from(bundle, *handlers)
    assert not {"fastapi", "mangum", "local", "tests"} & contents(bundle)
    assert "api" not in contents(bundle / "functions")


def test_the_executor_brings_the_programs_that_it_uploads_into_sandboxes(tmp_path):
    bundle = build("ReaperFunction", tmp_path)

    line = "import sys; sys.path.insert(0, sys.argv[1]); from sandbox import archive; print(archive.digest())"
    argv = [sys.executable, "-I", "-S", "-c", line, str(bundle)]
    made = subprocess.run(argv, cwd=bundle, capture_output=True, text=True, timeout=60, check=True)
    assert made.stdout.strip() == archive.digest()
    assert contents(bundle / "sandbox") - {"__pycache__"} == {"__init__.py", "archive.py", "programs"}
