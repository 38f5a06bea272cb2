"""Where bubblewrap is not installed, a sandbox is a plain process: less safe, the same result."""

import pytest

from local.processes import PROJECT_ROOT
from local.stack import Stack, StackOptions
from tests.integration.runs.conftest import Lab


@pytest.mark.parametrize("agent", ["claude", "codex"])
def test_a_whole_run_in_plain_processes(tmp_path, agent):
    options = StackOptions(
        data=tmp_path / "data",
        cache=PROJECT_ROOT / ".local" / "cache",
        agents=(agent,),
        isolation="process",
        preferred_ports={},
    )
    told = []
    with Stack(options, told.append) as stack:
        assert any("Install bubblewrap" in text for text in told)
        lab = Lab(stack, tmp_path)
        path, url = lab.repository()

        task = lab.run("@append README.md: more\n@write b.txt: b\n@say Done.", url, agent=agent)

        assert task["status"] == "completed", task["error"]
        assert task["changed_files"] == ["README.md", "b.txt"]
        lab.assert_patch_makes(task, path)
        lab.until(lambda: not lab.sandboxes() and not lab.agent_processes())
