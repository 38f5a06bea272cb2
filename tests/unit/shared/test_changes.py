import pytest

from shared.domain.binary_patch import blob_id
from shared.domain.changes import Changes, FileChange, RunChanges, TreeEntry
from shared.domain.errors import InvalidInput
from shared.domain.patch import BadPatch, File, PatchConflict

REGULAR, LINK = "100644", "120000"
OLD, NEW = File(REGULAR, b"old\n"), File(REGULAR, b"new\n")
CHANGED_SINCE = r"^{path} has changed since the agent saw it\. Run the task again on the current branch\.$"
RENAME = "diff --git a/from b/to\nsimilarity index 100%\nrename from from\nrename to to\n"


class Base:
    """A base with these files, that remembers which of them were read."""

    def __init__(self, **files):
        self._files = files
        self.read = []

    def entries(self):
        return {path: TreeEntry(file.mode, blob_id(file.content)) for path, file in self._files.items()}

    def file(self, path):
        self.read.append(path)
        return self._files.get(path)


def stored(path, before, after, **facts):
    before_id = None if before is None else blob_id(before)
    return FileChange(path=path, mode=REGULAR if after is not None else None, before_id=before_id, after=after, **facts)


def changes(*files, listed=None, patch=None):
    listed = [file.path for file in files] if listed is None else listed
    return Changes.of(RunChanges("c", files), listed, lambda: patch)


def test_stored_files_are_taken_without_a_look_at_the_base():
    base = Base()
    found = changes(
        stored("a", None, b"new\n"), stored("b", b"old\n", None), stored("c", b"x", b"x", previous_path="d")
    )

    assert found.on(base, is_the_agents=True) == {"a": NEW, "b": None, "c": File(REGULAR, b"x"), "d": None}
    assert found.count == 3
    assert base.read == []


@pytest.mark.parametrize("patch", [None, ""])
def test_without_all_files_and_without_a_patch_there_is_nothing_to_propose(patch):
    for listed in (["a", "b"], []):
        with pytest.raises(InvalidInput, match="No patch data available for this task"):
            changes(stored("a", None, b"new\n"), listed=listed, patch=patch)


def test_files_that_follow_others_are_put_before_they_are_removed():
    found = changes(stored("b", b"1", b"1", previous_path="a"), stored("a", None, b"2"))

    assert found.on(Base(), is_the_agents=True) == {"a": File(REGULAR, b"2"), "b": File(REGULAR, b"1")}


def test_a_patch_brings_what_was_not_stored_and_nothing_else():
    patch = RENAME + "diff --git a/a b/a\nold mode 100644\nnew mode 100755\n"
    base = Base(**{"from": OLD, "a": OLD})
    found = changes(stored("a", b"old\n", b"new\n"), listed=["a", "to"], patch=patch)

    assert found.on(base, is_the_agents=True) == {"a": NEW, "from": None, "to": OLD}
    assert (found.count, base.read) == (2, ["from"])


def test_a_file_that_becomes_a_link_is_deleted_and_made_anew():
    deleted = "diff --git a/a b/a\ndeleted file mode 100644\n--- a/a\n+++ /dev/null\n@@ -1 +0,0 @@\n-old\n"
    made = "diff --git a/a b/a\nnew file mode 120000\n--- /dev/null\n+++ b/a\n@@ -0,0 +1 @@\n+x\n\\ No newline\n"
    found = changes(listed=[], patch=deleted + made)

    assert found.on(Base(a=OLD), is_the_agents=False) == {"a": File(LINK, b"x")}
    assert found.count == 1
    with pytest.raises(BadPatch, match="changes a twice"):
        changes(listed=[], patch=deleted + deleted).on(Base(a=OLD), is_the_agents=False)


def test_a_renamed_file_takes_no_other_ones_place():
    with pytest.raises(PatchConflict, match=r"^to exists already\.$"):
        changes(listed=[], patch=RENAME).on(Base(**{"from": OLD, "to": OLD}), is_the_agents=True)


@pytest.mark.parametrize(
    ("change", "base", "path"),
    [
        (stored("a", b"old\n", b"x"), Base(), "a"),
        (stored("a", b"old\n", b"x"), Base(a=NEW), "a"),
        (stored("a", b"old\n", None), Base(a=NEW), "a"),
        (stored("a", None, b"x"), Base(a=OLD), "a"),
        (stored("b", b"old\n", b"x", previous_path="a"), Base(a=NEW), "a"),
        (stored("b", b"old\n", b"x", previous_path="a"), Base(a=OLD, b=OLD), "a"),
        (stored("a/b", None, b"x"), Base(a=OLD), "a"),
        (stored("a", None, b"x"), Base(**{"a/b/c": OLD}), "a"),
    ],
)
def test_on_another_base_nothing_of_others_is_overwritten(change, base, path):
    with pytest.raises(PatchConflict, match=CHANGED_SINCE.format(path=path)):
        changes(change).on(base, is_the_agents=False)


def test_on_another_base_where_all_is_as_the_agent_found_it_the_changes_are_the_same():
    files = (stored("a", b"old\n", None), stored("a/b", None, b"new\n"), stored("c", b"old\n", b"new\n"))

    found = changes(*files).on(Base(a=OLD, c=OLD, other=NEW), is_the_agents=False)

    assert found == {"a": None, "a/b": NEW, "c": NEW}
