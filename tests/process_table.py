"""What tests ask of processes. Each may end between being listed and being asked; then it has ended, no more."""

import psutil


def descendants(of=None):
    """The processes below the one with this id (default: the test's own), without those that have ended."""
    try:
        return [process for process in psutil.Process(of).children(recursive=True) if is_alive(process.pid)]
    except psutil.NoSuchProcess:
        return []


def command_of(process):
    """Its arguments; [] for one that has ended or shows none."""
    try:
        return process.cmdline()
    except (psutil.Error, OSError):
        return []


def is_alive(pid):
    """Whether it still runs. A zombie does not, though its parent has not asked for its exit code yet."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
