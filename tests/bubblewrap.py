"""Whether bubblewrap works on this machine, asked without our own code: where it does, ours must isolate with it."""

import shutil
import subprocess


def bubblewrap_works(*prefix):
    """`prefix` is the start of a command line that runs the rest of it as somebody else."""
    if shutil.which("bwrap") is None:
        return False
    argv = [*prefix, "bwrap", "--ro-bind", "/", "/", "--proc", "/proc", "--unshare-user-try", "--unshare-pid", "true"]
    return subprocess.run(argv, check=False, capture_output=True).returncode == 0
