"""Which repositories may be cloned, and what a branch may be called."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from shared.domain.errors import InvalidInput

DEFAULT_BRANCH = "main"
# GitHub's rule; the underscore stands in names of accounts that an enterprise manages, such as octo_acme.
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,38}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_SSH = re.compile(r"git@(?P<host>[A-Za-z0-9.-]+):(?P<path>.+)")
_FORBIDDEN_IN_URL = re.compile(r"[\x00-\x20\x7f]")  # urlsplit would leave some of them out
_FORBIDDEN_IN_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository on an allowed origin. `url` is rebuilt from its parts: nothing else of the input survives."""

    origin: str  # scheme and host, e.g. https://github.com
    owner: str
    name: str

    @property
    def url(self) -> str:
        return f"{self.origin}/{self.owner}/{self.name}"

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}"

    @classmethod
    def parse(cls, text: str, *, origins: Collection[str]) -> "Repository":
        """Read `https://host/owner/name[.git][/]`, or `git@host:owner/name[.git]` for an https origin.

        Raises InvalidInput for anything else, and for an origin that is not in `origins`.
        """
        text = text.strip()
        if ssh := _SSH.fullmatch(text):
            origin, path = f"https://{ssh['host'].lower()}", ssh["path"]
        else:
            origin, path = _split(text)
        if origin not in origins:
            raise InvalidInput(f"repo_url must be on one of: {', '.join(sorted(origins))}")
        owner, _, name = path.removesuffix(".git").partition("/")
        if not _OWNER.fullmatch(owner) or not _NAME.fullmatch(name) or name in {".", ".."}:
            raise InvalidInput(f"repo_url must look like {origin}/owner/repository")
        return cls(origin, owner, name)


def _split(text: str) -> tuple[str, str]:
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = None
    if parts is None or _FORBIDDEN_IN_URL.search(text):
        raise InvalidInput("repo_url is not a valid URL")
    if "@" in parts.netloc:
        raise InvalidInput("repo_url must not contain credentials; send the token as github_token")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise InvalidInput("repo_url must not have a query or fragment")
    return f"{parts.scheme}://{parts.netloc.lower()}", parts.path.removeprefix("/").removesuffix("/")


def branch_name(text: str | None) -> str:
    """The branch to work on; `main` for None and blank. Raises InvalidInput where git's own rules refuse it.

    A leading dash is refused too, so that no branch can be read as an option.
    """
    branch = (text or "").strip() or DEFAULT_BRANCH
    parts = branch.split("/")
    if (
        len(branch.encode()) > 244  # the longest ref name that fits a file name, below refs/heads/
        or branch.startswith("-")
        or branch.endswith((".", "/"))
        or branch == "@"
        or _FORBIDDEN_IN_BRANCH.search(branch)
        or any(not part or part.startswith(".") or part.endswith(".lock") for part in parts)
    ):
        raise InvalidInput("branch is not a valid git branch name")
    return branch
