"""What `make demo` says, before it downloads anything, on a machine where the stack cannot work."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from local import preflight
from local.machine import POSTGRES_ACCOUNTS, Facts, Place, cgroup_limits, facts_of_this_machine, look_at
from local.services.postgres import account
from shared.domain.agents import PROFILES

PLACE = Place(purpose="Claude Code", path=Path("/work"), needed_mb=500, device=1, free_mb=9000)
ALL_CAPABILITIES = (1 << 41) - 1

# What Docker gives by default: root with some capabilities, and no limit.
FINE = Facts(
    uid=0, user="root", account="nobody", capabilities=0xA80425FB, memory_mb=8000, available_mb=7000, places=(PLACE,)
)


def without(*names):
    held = ALL_CAPABILITIES
    for name in names:
        held &= ~(1 << preflight.CAPABILITIES[name])
    return held


def refused(number):
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"uid": 1000, "user": "ada", "account": None, "capabilities": 0},
        {"capabilities": None, "memory_mb": None, "available_mb": None},  # macOS
        {"memory_mb": preflight.NEEDED_MEMORY_MB - 1, "swap_mb": 1},
        {"processes": preflight.NEEDED_PROCESSES, "open_files": preflight.NEEDED_OPEN_FILES},
        {"shared_memory_mb": preflight.NEEDED_SHARED_MEMORY_MB, "file_size_mb": preflight.LARGEST_FILE_MB},
        {"places": (replace(PLACE, free_mb=500, owner="ada"),)},
        {"places": (PLACE, replace(PLACE, device=2, free_mb=500))},
        {"places": (replace(PLACE, noexec=True),)},  # data only
        {"uid": 12345, "user": None, "shared_memory_mb": 1, "runs_postgres": False},
        {"capabilities": 0, "runs_postgres": False},
    ],
)
def test_a_machine_that_can_work_has_no_problems(change):
    assert preflight.problems(replace(FINE, **change)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"uid": 12345, "user": None}, ["12345", "has no name", "-v /etc/passwd:/etc/passwd:ro"]),
        ({"account": None}, ["no user `postgres` or `nobody`", "ordinary user"]),
        (
            {"capabilities": 0},
            ["CHOWN, DAC_OVERRIDE, KILL, SETGID and SETUID", "--cap-add CHOWN --cap-add DAC_OVERRIDE"],
        ),
        *(({"capabilities": without(name)}, [f"--cap-add {name})"]) for name in preflight.CAPABILITIES),
        ({"switch_error": refused(errno.EINVAL)}, ["cannot become the user nobody", "Invalid argument"]),
        ({"memory_mb": 512, "in_container": True}, ["container has 512 MB", "850 MB", "--memory 2g"]),
        ({"memory_mb": 512}, ["machine has 512 MB", "use a machine with"]),
        ({"memory_mb": 512, "swap_mb": 100}, ["512 MB"]),
        ({"has_git": False}, ["git is not installed", "apt install git"]),
        ({"processes": 30}, ["only 30 processes", "--pids-limit"]),
        ({"open_files": 64}, ["only 64 open files", "ulimit -n"]),
        ({"shared_memory_mb": 1}, ["only 1 MB in /dev/shm", "needs 4", "--shm-size 64m"]),
        ({"file_size_mb": 9}, ["only 9 MB per file", "ulimit -f"]),
        (
            {"places": (replace(PLACE, free_mb=200),)},
            ["200 MB free", "500 MB are needed for Claude Code", "free at least 300 MB"],
        ),
        ({"places": (replace(PLACE, free_mb=900), replace(PLACE, free_mb=900))}, ["900 MB free", "1000 MB"]),
        ({"places": (replace(PLACE, write_error=refused(errno.EROFS)),)}, ["/work", "Read-only", "writable"]),
        (
            {"places": (replace(PLACE, write_error=refused(errno.EACCES), owner="root"),)},
            ["belongs to root", "chown -R"],
        ),
        ({"places": (replace(PLACE, write_error=refused(errno.EACCES)),)}, ["Permission denied", "permissions"]),
        ({"places": (replace(PLACE, write_error=refused(errno.ENOSPC), free_mb=0),)}, ["No space left", "free space"]),
        ({"places": (replace(PLACE, write_error=refused(errno.EDQUOT)),)}, ["quota"]),
        ({"places": (replace(PLACE, noexec=True, runs_programs=True),)}, ["noexec", "Claude Code"]),
    ],
)
def test_each_obstacle_is_one_sentence_with_figures_and_a_remedy(change, words):
    [sentence] = preflight.problems(replace(FINE, **change))

    assert [word for word in words if word not in sentence] == []
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"memory_mb": 900, "in_container": True}, ["900 MB", "just enough", "--memory 2g"]),
        ({"memory_mb": 512, "swap_mb": 2000}, ["512 MB"]),
        ({"available_mb": 300}, ["300 MB", "available", "end other programs"]),
    ],
)
def test_what_may_fail_is_a_warning(change, words):
    facts = replace(FINE, **change)
    [sentence] = preflight.warnings(facts)

    assert [word for word in words if word not in sentence] == []
    assert preflight.problems(facts) == []


def test_too_little_memory_is_said_once():
    assert preflight.warnings(replace(FINE, memory_mb=512, available_mb=100)) == []


def test_linters_need_no_database_user_and_no_memory():
    assert preflight.package_problems(replace(FINE, uid=12345, user=None, memory_mb=512, has_git=False)) == []
    assert len(preflight.package_problems(replace(FINE, places=(replace(PLACE, free_mb=0),)))) == 1


def test_root_is_checked_for_what_postgresql_then_needs():
    assert account.ACCOUNTS == POSTGRES_ACCOUNTS
    assert {name: number for number, name in account.CAPABILITIES.items()} == preflight.CAPABILITIES


# ------------------------------------------------------------------------------------------------------------ gathering


def system(tmp_path, files):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "536870912\n"}, 512),  # version 2, in a container
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "536870912\n",
          "sys/fs/cgroup/a/b/memory.max": "max\n"}, 512),  # of a parent
        ({"proc/self/cgroup": "8:pids:/docker/1f\n4:memory:/docker/1f\n0::/docker/1f\n",
          "sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n"}, 512),  # version 1, seen from inside
        ({"proc/self/cgroup": "4:memory:/x\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "536870912\n",
          "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 512),
        ({"proc/self/cgroup": "4:memory:/\n",
          "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 2048),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 2048),
        ({}, 2048),
    ],
)  # fmt: skip
def test_the_memory_limit_of_either_cgroup_version_is_found(tmp_path, files, limit):
    meminfo = "MemTotal: 2097152 kB\nMemAvailable: 1048576 kB\nSwapFree: 524288 kB\n"
    facts = facts_of_this_machine((), system=system(tmp_path, files | {"proc/meminfo": meminfo}))

    assert facts.memory_mb == limit
    assert facts.in_container == (limit == 512)
    assert (facts.available_mb, facts.swap_mb) == (1024, 512)


@pytest.mark.parametrize(("folder", "line"), [("sys/fs/cgroup/pids", "7:pids:/docker/1f"), ("sys/fs/cgroup", "0::/")])
def test_processes_that_run_already_count(tmp_path, folder, line):
    files = {"proc/self/cgroup": line, f"{folder}/pids.max": "100\n", f"{folder}/pids.current": "70\n"}

    assert list(cgroup_limits(system(tmp_path, files), "pids")) == [30]


def test_the_effective_capabilities_are_read(tmp_path):
    files = {"proc/self/status": "Name:\tpython3\nCapPrm:\t0000000000000000\nCapEff:\t00000000a80425fb\n"}

    assert facts_of_this_machine((), system=system(tmp_path, files)).capabilities == 0xA80425FB


def test_a_system_without_proc_has_no_limits(tmp_path):
    facts = facts_of_this_machine((), system=tmp_path)

    assert (facts.capabilities, facts.available_mb, facts.in_container) == (None, None, False)
    assert facts.shared_memory_mb is None
    assert facts.memory_mb is None or facts.memory_mb > 0


def test_a_folder_that_does_not_exist_stands_for_its_parent_and_nothing_is_left_there(tmp_path):
    place = look_at("x", tmp_path / "a" / "b", 1, written=True)

    assert (place.path, place.write_error) == (tmp_path, None)
    assert place.free_mb > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_closed_folder_is_found(tmp_path):
    tmp_path.chmod(0o500)

    assert look_at("x", tmp_path, 1, written=True).write_error.errno == errno.EACCES


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that takes no file")
def test_a_folder_that_takes_no_file_is_found():
    assert look_at("x", Path("/proc/self"), 1, written=True).write_error is not None
    assert look_at("x", Path("/proc/self"), 1, written=False).write_error is None


def test_only_what_is_not_there_yet_needs_room(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "LOCAL", tmp_path / ".local")
    monkeypatch.setattr(preflight, "VENV", tmp_path / ".venv")
    monkeypatch.delenv("LOCAL_DATA", raising=False)

    def needed():
        return [(place.needed_mb, place.passing_mb) for place in preflight.gather(agents=("codex",)).places]

    download_mb = preflight.CLIS["codex"].size_mb
    assert needed() == [preflight.LOCAL_PACKAGES_MB, (preflight.CLI_MB, download_mb), (preflight.DATA_MB, 0)]

    (tmp_path / ".venv/lib").mkdir(parents=True)  # an interrupted installation
    (tmp_path / ".venv/lib/part").write_bytes(bytes(3 * 1024 * 1024))
    kept_mb, passing_mb = preflight.LOCAL_PACKAGES_MB
    assert needed()[0] == (kept_mb - 3, passing_mb)

    program = tmp_path / ".local/cache/agents" / f"codex-{preflight.CLIS['codex'].version}" / "bin" / "codex"
    for path in (tmp_path / ".venv/.local-packages", program):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    assert needed() == [(0, 0), (0, 0), (preflight.DATA_MB, 0)]


def test_what_is_there_only_meanwhile_counts_once():
    places = [replace(PLACE, needed_mb=100, passing_mb=50), replace(PLACE, needed_mb=200, passing_mb=70)]

    assert preflight.problems(replace(FINE, places=tuple(replace(place, free_mb=370) for place in places))) == []
    [sentence] = preflight.problems(replace(FINE, places=tuple(replace(place, free_mb=369) for place in places)))
    assert "370 MB" in sentence


def test_the_tests_need_their_packages_and_all_agents(monkeypatch):
    monkeypatch.setenv("AGENT", "codex")

    assert [place.purpose for place in preflight.gather(tests=True).places] == [
        "the Python packages",
        *(profile.title for profile in PROFILES.values()),
        "the database",
    ]
    assert len(preflight.gather(stack=False, tests=True).places) == 1


@pytest.mark.parametrize(("cloud", "runs"), [("", True), ("e2b", True), ("e2b, supabase", False)])
def test_no_postgresql_runs_where_supabase_is_used(monkeypatch, cloud, runs):
    monkeypatch.setenv("CLOUD", cloud)

    assert preflight.gather().runs_postgres == runs
    assert preflight.gather(tests=True).runs_postgres
    assert not preflight.gather(clouds=("supabase",)).runs_postgres


def test_an_agent_that_does_not_exist_is_not_the_disks_business(monkeypatch):
    monkeypatch.setenv("AGENT", "gemini,codex")

    assert [place.purpose for place in preflight.gather().places][1:-1] == ["Codex"]
