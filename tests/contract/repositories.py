"""The repositories of the GitHub stand-in, and patches that an agent could have made of them."""

import subprocess
from dataclasses import dataclass

from local.mirrors import publish

README = "# r\n\n" + "".join(f"Line {number}.\n" for number in range(1, 31))
IDENTITY = ("-c", "user.name=Test", "-c", "user.email=test@example.test", "-c", "core.autocrlf=false")


@dataclass(frozen=True)
class Patches:
    """As `git format-patch --stdout` writes them, against branch main of o/r."""

    readme: str  # one line of README.md
    several: str  # two far lines of README.md, a new file, a deleted one
    plain: str  # the first one as a bare unified diff, without git's own headers and object ids
    conflicting: str  # of a line that main does not have


def make_repositories(root, work):
    """Publish o/r and o/o.github.io as bare repositories below `root`; `work` is for their sources."""
    git = _Git(work / "r")
    git("init", "--quiet", "--initial-branch=main")
    git.commit({"README.md": README, "old.txt": "old\n"}, "Begin")
    publish(root, "o", "r", git.folder)
    publish(root, "o", "o.github.io", git.folder)
    readme = git.patch({"README.md": README.replace("Line 3.", "Line three.")})
    several = git.patch(
        {"README.md": README.replace("Line 2.", "Line two.").replace("Line 29.", "Line 29\n++ more"), "new.txt": "n\n"},
        deleted=["old.txt"],
    )
    plain = "--- a/README.md\n+++ b/README.md\n@@ -4,3 +4,3 @@\n Line 2.\n-Line 3.\n+Line three.\n Line 4.\n"
    git.commit({"README.md": README.replace("Line 3.", "Line 3, which never was in main.")}, "Elsewhere")
    conflicting = git.patch({"README.md": README.replace("Line 3.", "Line III.")})
    return Patches(readme, several, plain, conflicting)


class _Git:
    """A repository to make commits in; called with git's arguments, it returns what git prints."""

    def __init__(self, folder):
        folder.mkdir(parents=True)
        self.folder = folder

    def __call__(self, *arguments):
        command = ["git", *IDENTITY, *arguments]
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout

    def commit(self, files, message):
        for name, text in files.items():
            (self.folder / name).write_text(text)
        self("add", "--all")
        self("commit", "--quiet", "--message", message)

    def patch(self, files, *, deleted=()):
        """The patch of a commit that is taken back afterwards."""
        for name in deleted:
            (self.folder / name).unlink()
        self.commit(files, "Change")
        patch = self("format-patch", "-1", "--stdout")
        self("reset", "--quiet", "--hard", "HEAD~1")
        return patch
