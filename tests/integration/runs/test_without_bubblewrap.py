"""Where bubblewrap is not installed, a sandbox is a plain process: less safe, the same result."""

import pytest

from local.stack import Stack
from tests.bubblewrap import bubblewrap_works
from tests.integration.runs.conftest import Lab, options_in


@pytest.mark.parametrize("agent", ["claude", "codex"])
def test_a_whole_run_in_plain_processes(tmp_path, agent):
    told = []
    with Stack(options_in(tmp_path, agent, isolation="process"), told.append) as stack:
        assert any("Sandboxes are plain processes here" in text for text in told)
        lab = Lab(stack, tmp_path)
        path, url = lab.repository()

        client = lab.user()
        task_id = lab.start(client, "@append README.md: more\n@write b.txt: b\n@say Done.", url, agent=agent)
        task = lab.finished(client, task_id)

        assert task["status"] == "completed", task["error"]
        assert task["changed_files"] == ["README.md", "b.txt"]
        lab.assert_patch_makes(task, path)

        lab.control(client, task_id, "follow-up", prompt="@append b.txt: c")
        followed = lab.finished(client, task_id)

        assert (followed["status"], followed["container_id"]) == ("completed", task["container_id"])
        assert "+c" in followed["git_diff"]
        lab.assert_patch_makes(followed, path)
        assert [folder.name for folder in lab.sandboxes()] == [task["container_id"]]  # kept for another one
        assert lab.agent_processes() == []


def test_where_bubblewrap_works_the_stack_isolates_with_it(lab):
    """Else all other tests would pass without what they are meant to try."""
    isolated = "sandboxes are isolated by bubblewrap" in (lab.stack.logs / "e2b.log").read_text()

    assert isolated == bubblewrap_works()
