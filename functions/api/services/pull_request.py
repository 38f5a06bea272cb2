"""From an agent's changes to a pull request: nobody's branch is overwritten, and nothing is left half done."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from shared.domain.changes import Changes, Files, TreeEntry
from shared.domain.errors import AppError, Conflict, Forbidden, InvalidInput, NotFound
from shared.domain.patch import File
from shared.domain.pull_request import (
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
    draft: bool = False


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
    """The task's open pull request, with all that its agent has done by now; `patch` is read only when it is needed.

    It is made unless it exists. After a follow-up, it gets another commit.

    Raises InvalidInput, BadPatch and PatchConflict when the changes cannot be put on the repository as it is now,
    NotFound without repository or branch, Forbidden, Conflict when somebody has worked on the branch meanwhile,
    TokenRefused, GitHubRefused, TooMany, Unavailable. In no case is a commit of somebody else's lost; done again, it
    goes on where it broke off.
    """
    task = asked.task
    title, body = _words(asked)
    repository = Repository.parse(task.repo_url, origins=origins)
    place = Place(github, repository, branch_name(task.target_branch), task.branch)
    with _readable(place):
        there = github.open_pull_request(repository, place.branch) if task.was_proposed else None
        if there and task.tree and _holds(place, task.tree, task):
            return Proposed(there, len(task.changed_files))
    run = store.latest(task.id, owner_id=asked.owner_id)
    changes = Changes.of(run, task.changed_files, patch)
    if there and task.tree is None:  # of the old backend, which had no follow-ups
        return Proposed(there, changes.count)
    with _readable(place):
        base = _base(place, run.base_commit)
        files = changes.on(_BaseFiles(place, base.commit.tree), is_the_agents=base.is_the_agents)
    with _explained(place, files):
        tree = _tree(place, base, files, task)
        is_new = _put_on_branch(place, tree, base, task, run.prompt or task.prompt)
    pull_request = there or _pull_request(place, is_new, words=(title, body), draft=asked.draft)
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


def _tree(place: Place, base: Base, files: Files, task: FinishedTask) -> str:
    """The id of the base's tree with the files put into it. Raises Conflict when it is not what the agent left."""
    tree = place.github.create_tree(place.repository, base.commit.tree, files)
    scrubbed = any(file and REDACTED.encode() in file.content for file in files.values())
    if base.is_the_agents and task.tree not in {None, tree} and not scrubbed:
        raise Conflict("What was stored of the changes is not all that the agent did. Run the task again.")
    return tree


def _put_on_branch(place: Place, tree: str, base: Base, task: FinishedTask, prompt: str) -> bool:
    """Have the branch hold the tree in a commit of ours: the first, or one on top. Whether the branch is new.

    Of two requests at once, one makes the commit, and the other finds it.
    """
    github, repository, branch = place.github, place.repository, place.branch
    history = github.history(repository, branch)
    if not history:
        commit = github.create_commit(repository, tree=tree, parents=(base.commit.id,), message=task.commit_message)
        return _changed(lambda: github.create_branch(repository, branch, commit.id), place, tree, task)
    if _holds(place, tree, task):
        return False
    head = history[0]
    if not task.is_ours(head):
        was_ours = task.was_proposed or any(task.is_ours(commit) for commit in history)
        raise _worked_on(place) if was_ours else _foreign(place)
    # The base is named, too, where it is a newer one: else what others did up to there would look like the agent's.
    seen = {commit.id for commit in history}
    parents = (head.id,) if base.commit.id in seen else (head.id, base.commit.id)
    commit = github.create_commit(repository, tree=tree, parents=parents, message=task.message_of(prompt))
    _changed(lambda: github.move_branch(repository, branch, commit.id), place, tree, task)
    return False


def _holds(place: Place, tree: str, task: FinishedTask) -> bool:
    """Whether the newest commit of ours on the branch has this tree; others may have worked on from there."""
    history = place.github.history(place.repository, place.branch)
    return next((commit.tree == tree for commit in history if task.is_ours(commit)), False)


def _changed(change: Callable[[], None], place: Place, tree: str, task: FinishedTask) -> bool:
    """Change the branch. False when somebody has made the same change just now, so that GitHub refuses it."""
    try:
        change()
    except GitHubRefused:
        if not _holds(place, tree, task):
            raise
        return False
    return True


def _foreign(place: Place) -> Forbidden:
    text = f"Branch '{place.branch}' already exists. Please try again or use a different task."
    return Forbidden(text, code="branch_exists")


def _worked_on(place: Place) -> Conflict:
    text = (
        f"Somebody has worked on branch '{place.branch}' since. Nothing of it was changed: "
        "merge or close its pull request and remove the branch, then try again."
    )
    return Conflict(text, code="branch_has_moved")


def _pull_request(place: Place, is_new: bool, *, words: tuple[str, str], draft: bool) -> PullRequest:
    """A new branch is taken away again when GitHub wants no pull request from it.

    It stays when GitHub did not answer: there may be a pull request by now, and the next try will find it.
    """
    github, repository, branch = place.github, place.repository, place.branch
    title, body = words
    try:
        return github.create_pull_request(
            repository, branch=branch, target=place.target, title=title, body=body, draft=draft
        )
    except GitHubRefused as refused:
        if existing := github.open_pull_request(repository, branch):
            return existing
        if is_new:
            _remove_branch(place)
        if refused.status in {403, 404}:
            text = f"GitHub token lacks permission to create pull requests. Error: {refused.reason}"
            raise Forbidden(text, code="github_token_lacks_permission") from refused
        raise


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
