"""From an agent's changes to a pull request: nobody's branch is overwritten, and nothing is left half done."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from shared.domain.changes import Changes, Files, TreeEntry
from shared.domain.errors import AppError, Conflict, Forbidden, InvalidInput, NotFound
from shared.domain.patch import File
from shared.domain.pull_request import (
    COMMITTER,
    MAX_BODY_CHARS,
    MAX_TITLE_CHARS,
    ChangeStore,
    Commit,
    FinishedTask,
    GitHub,
    GitHubRefused,
    PullRequest,
)
from shared.domain.redaction import REDACTED
from shared.domain.repository import Repository, branch_name

log = logging.getLogger("api.pull_request")

LACKS_PERMISSION = (
    "GitHub token lacks permission to create branches. "
    "Please ensure your token has 'repo' scope (not just 'public_repo'). Error: {reason}"
)
WORKFLOWS = ".github/workflows/"  # for which GitHub wants a right of its own, and does not say so


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Whose task is to be proposed, and the words for it where they are not ours."""

    task: FinishedTask
    owner_id: str
    title: str | None
    body: str | None


@dataclass(frozen=True, slots=True)
class Proposed:
    pull_request: PullRequest
    files_updated: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where the pull request goes: from its own branch to `target`."""

    github: GitHub
    repository: Repository
    target: str
    branch: str


@dataclass(frozen=True, slots=True)
class Base:
    """What the changes are put on. `is_the_agents` when it is the very commit that the agent saw."""

    commit: Commit
    is_the_agents: bool


def propose(
    asked: Asked, *, github: GitHub, store: ChangeStore, patch: Callable[[], str | None], origins: Collection[str]
) -> Proposed:
    """The task's open pull request, made now unless it exists; `patch` is read only when it is needed.

    Raises InvalidInput, BadPatch and PatchConflict when the changes cannot be put on the repository as it is now,
    NotFound without repository or branch, Forbidden, TokenRefused, GitHubRefused, TooMany, Unavailable. In no case is a
    branch of somebody else's changed; done again, it goes on where it broke off.
    """
    task = asked.task
    title, body = _words(asked)
    repository = Repository.parse(task.repo_url, origins=origins)
    place = Place(github, repository, branch_name(task.target_branch), task.branch)
    run = store.latest(task.id, owner_id=asked.owner_id)
    changes = Changes.of(run, task.changed_files, patch)
    with _readable(place):
        if task.was_proposed and (still_open := github.open_pull_request(repository, place.branch)):
            return Proposed(still_open, changes.count)
        base = _base(place, run.base_commit)
        files = changes.on(_BaseFiles(place, base.commit.tree), is_the_agents=base.is_the_agents)
    commit = _commit(place, base, files, task)
    pull_request = _pull_request(place, commit, files, title=title, body=body)
    store.record_pull_request(task.id, pull_request)
    return Proposed(pull_request, changes.count)


def _words(asked: Asked) -> tuple[str, str]:
    title = " ".join((asked.title or "").split()) or asked.task.title
    body = asked.task.body if asked.body is None else asked.body
    if len(title) > MAX_TITLE_CHARS:
        raise InvalidInput(f"title may have at most {MAX_TITLE_CHARS} characters")
    if len(body) > MAX_BODY_CHARS:
        raise InvalidInput(f"body may have at most {MAX_BODY_CHARS} characters")
    return title, body


# --- what the changes are put on ----------------------------------------------------------------------------


def _base(place: Place, agents_commit: str | None) -> Base:
    """The commit that the agent saw; where GitHub does not have it any more, the target's newest."""
    head = place.github.head(place.repository, place.target)
    if head is None:
        raise _missing(place)
    if agents_commit and (seen := place.github.commit(place.repository, agents_commit)):
        return Base(seen, is_the_agents=True)
    newest = place.github.commit(place.repository, head)
    if newest is None:
        raise _missing(place)
    return Base(newest, is_the_agents=False)


def _missing(place: Place) -> NotFound:
    name = place.repository.full_name
    try:
        place.github.access(place.repository)
    except GitHubRefused as refused:
        return NotFound(f"Cannot access repository {name}: {refused.reason}", code="repository_not_found")
    return NotFound(f"Branch '{place.target}' does not exist in {name}", code="branch_not_found")


class _BaseFiles:
    """The files at the base, listed when somebody first asks: mostly, nobody does."""

    def __init__(self, place: Place, tree: str) -> None:
        self._place = place
        self._tree = tree
        self._entries: Mapping[str, TreeEntry] | None = None

    def entries(self) -> Mapping[str, TreeEntry]:
        if self._entries is None:
            self._entries = self._place.github.tree(self._place.repository, self._tree)
        return self._entries

    def file(self, path: str) -> File | None:
        entry = self.entries().get(path)
        return File(entry.mode, self._place.github.blob(self._place.repository, entry)) if entry else None


@contextmanager
def _readable(place: Place) -> Iterator[None]:
    """A repository that GitHub does not let the token read."""
    try:
        yield
    except GitHubRefused as refused:
        text = f"Cannot access repository {place.repository.full_name}: {refused.reason}"
        raise Forbidden(text, code="repository_not_accessible") from refused


# --- onto GitHub --------------------------------------------------------------------------------------------


def _commit(place: Place, base: Base, files: Files, task: FinishedTask) -> Commit:
    """The changes as a commit that is on no branch yet."""
    with _explained(place, files):
        tree = place.github.create_tree(place.repository, base.commit.tree, files)
    scrubbed = any(file and REDACTED.encode() in file.content for file in files.values())
    if base.is_the_agents and task.tree not in {None, tree} and not scrubbed:
        raise Conflict("What was stored of the changes is not all that the agent did. Run the task again.")
    with _explained(place, files):
        return place.github.create_commit(
            place.repository, tree=tree, parent=base.commit.id, message=task.commit_message
        )


def _pull_request(place: Place, commit: Commit, files: Files, *, title: str, body: str) -> PullRequest:
    """The branch is made last, and taken away again when GitHub wants no pull request from it.

    It stays when GitHub did not answer: there may be a pull request by now, and the next try will find it.
    """
    github, repository, branch = place.github, place.repository, place.branch
    with _explained(place, files):
        is_new = _put_branch(place, commit)
    try:
        return github.create_pull_request(repository, branch=branch, target=place.target, title=title, body=body)
    except GitHubRefused as refused:
        if existing := github.open_pull_request(repository, branch):
            return existing
        if is_new:
            _remove_branch(place)
        if refused.status in {403, 404}:
            text = f"GitHub token lacks permission to create pull requests. Error: {refused.reason}"
            raise Forbidden(text, code="github_token_lacks_permission") from refused
        raise


def _put_branch(place: Place, commit: Commit) -> bool:
    """Have the branch point at `commit`, or at one of ours that is just like it. Whether it is new."""
    github, repository, branch = place.github, place.repository, place.branch
    try:
        github.create_branch(repository, branch, commit.id)
    except GitHubRefused:
        head = github.head(repository, branch)
        if head is None:
            raise
    else:
        return True
    there = github.commit(repository, head)
    if there is None or not _is_ours(there, commit):
        text = f"Branch '{branch}' already exists. Please try again or use a different task."
        raise Forbidden(text, code="branch_exists")
    if (there.tree, there.parents) != (commit.tree, commit.parents):
        github.move_branch(repository, branch, commit.id)
    return False


def _is_ours(there: Commit, commit: Commit) -> bool:
    """Whether it was made for the same task by us, and nobody has worked on it since."""
    made_by_us = there.committer_email == COMMITTER[1] and len(there.parents) == 1
    return made_by_us and there.message == commit.message


def _remove_branch(place: Place) -> None:
    try:
        place.github.delete_branch(place.repository, place.branch)
    except AppError as error:  # why there is no pull request matters more; the next try reuses the branch
        log.warning("branch.not_removed", extra={"branch": place.branch} | error.for_log())


@contextmanager
def _explained(place: Place, files: Files) -> Iterator[None]:
    """What GitHub refuses to write, as the contract's sentences."""
    try:
        yield
    except GitHubRefused as refused:
        # To a token without the right, GitHub says that what it can read does not exist.
        if refused.status != 404 and "resource not accessible" not in refused.reason.lower():
            text = f"Failed to create branch '{place.branch}': {refused.reason}"
            raise Forbidden(text, code="branch_refused") from refused
        text = LACKS_PERMISSION.format(reason=refused.reason)
        if any(path.startswith(WORKFLOWS) for path in files):
            text += f". Changes below {WORKFLOWS} need the 'workflow' scope too."
        raise Forbidden(text, code="github_token_lacks_permission") from refused
