"""Whether bubblewrap works on this machine, asked without our own code: where it does, ours must isolate with it."""

import shutil
import subprocess


def bubblewrap_works():
    if shutil.which("bwrap") is None:
        return False
    argv = ["bwrap", "--ro-bind", "/", "/", "--proc", "/proc", "--unshare-user-try", "--unshare-pid", "true"]
    return subprocess.run(argv, check=False, capture_output=True).returncode == 0
