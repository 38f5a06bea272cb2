"""The end of a job, on request: also of one whose supervisor has died."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from sandbox.programs.account import Account
from sandbox.programs.failures import UsageError
from sandbox.programs.job import account_of
from sandbox.programs.job_folder import JobFolder
from sandbox.programs.look import wait_for_end
from sandbox.programs.processes import (
    STOP_PATIENCE_S,
    birth,
    kill_all_of,
    marked,
    processes,
    processes_of,
    send,
    with_descendants,
)


def stop(folder: JobFolder) -> None:
    """End the job and everything it started; one that never ran can never start. Raises UsageError."""
    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.lock():
        folder.discard_secrets()
        folder.record_exit("stop", None)
        return
    if folder.exit.exists():
        return
    is_dead = folder.phase() == "crashed"  # asked first: our file makes the lock look new
    supervisor = folder.supervisor()
    if supervisor and supervisor.is_alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisor.pid, signal.SIGTERM)  # quicker than its next check, and enough on a full disk
    with contextlib.suppress(OSError):
        folder.stop.touch(mode=0o600)
    if not is_dead:
        wait_for_end(folder, _grace(folder) + STOP_PATIENCE_S)
    if is_dead or folder.phase() == "crashed":
        _end_orphans(folder)
        folder.discard_secrets()
        folder.record_exit("crash", None)


def _grace(folder: JobFolder) -> float:
    try:
        return folder.job().stop_grace_s
    except UsageError:
        return 0.0


def _end_orphans(folder: JobFolder) -> None:
    """Do the killing of a supervisor that died."""
    account = _separate_account(folder)
    send(signal.SIGTERM, _orphans(folder, account))
    deadline = time.monotonic() + _grace(folder)
    while _orphans(folder, account) and time.monotonic() < deadline:
        time.sleep(0.05)
    deadline = time.monotonic() + STOP_PATIENCE_S
    while (left := _orphans(folder, account)) and time.monotonic() < deadline:
        send(signal.SIGKILL, left)
        if account:
            kill_all_of(account)
        time.sleep(0.05)


def _separate_account(folder: JobFolder) -> Account | None:
    """The account of a job whose user's processes are all the job's own."""
    try:
        job = folder.job()
        account = account_of(job)
    except UsageError:
        return None
    return account if job.user == "agent" and account.is_separate else None


def _orphans(folder: JobFolder, account: Account | None) -> set[int]:
    """What still runs of the job: by the mark in its environment, by session or group, by descent, by its user."""
    table = processes()
    seeds = marked(folder.path) | (processes_of(account) if account else set())
    child = folder.child()
    if child and birth(child.pid) in (None, child.birth):  # else the number belongs to a stranger now
        seeds |= {p.pid for p in table if child.pid in (p.pgid, p.session)}
    return with_descendants(seeds, table) & {process.pid for process in table}
