"""Creates and updates pull requests: other users' branches are never overwritten, and no step is left half done."""

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
WORKFLOWS = ".github/workflows/"  # GitHub requires a separate permission for these, and its error does not say so


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposeCommand:
    """The task to propose, and the title and body to use instead of the generated ones."""

    task: FinishedTask
    owner_id: str
    title: str | None
    body: str | None
    draft: bool = False


@dataclass(frozen=True, slots=True)
class Proposed:
    """The open pull request, and how many files it changes."""

    pull_request: PullRequest
    files_updated: int


@dataclass(frozen=True, slots=True)
class Destination:
    """The repository and branches of the pull request: from `branch` to `target`."""

    github: GitHub
    repository: Repository
    target: str
    branch: str


@dataclass(frozen=True, slots=True)
class Base:
    """The commit that the changes are applied to. `is_the_agents` when it is the commit that the agent started from."""

    commit: Commit
    is_the_agents: bool


def propose(
    command: ProposeCommand,
    *,
    github: GitHub,
    store: ChangeStore,
    patch: Callable[[], str | None],
    origins: Collection[str],
) -> Proposed:
    """The task's open pull request, with all changes of its agent; `patch` is only called when it is needed.

    Creates the pull request unless it exists. After a follow-up, it gets another commit.

    Raises InvalidInput, BadPatch and PatchConflict when the changes cannot be applied to the current repository,
    NotFound without repository or branch, Forbidden, Conflict when the branch has commits of other authors,
    TokenRefused, GitHubRefused, TooMany, Unavailable. Commits of other authors are never lost, and a repeated call
    continues an interrupted one.
    """
    task = command.task
    title, body = _words(command)
    repository = Repository.parse(task.repo_url, origins=origins)
    destination = Destination(github, repository, branch_name(task.target_branch), task.branch)
    with _readable(destination):
        there = github.open_pull_request(repository, destination.branch) if task.was_proposed else None
        if there and task.tree and _holds(destination, task.tree, task):
            return Proposed(there, len(task.changed_files))
    run = store.latest(task.id, owner_id=command.owner_id)
    changes = Changes.of(run, task.changed_files, patch)
    if there and task.tree is None:  # a task of the old backend, which had no follow-ups
        return Proposed(there, changes.count)
    with _readable(destination):
        base = _base(destination, run.base_commit)
        files = changes.on(_BaseFiles(destination, base.commit.tree), is_the_agents=base.is_the_agents)
    with _write_errors(destination, files):
        tree = _tree(destination, base, files, task)
        is_new = _put_on_branch(destination, tree, base, task, run.prompt or task.prompt)
    pull_request = there or _pull_request(destination, is_new, words=(title, body), draft=command.draft)
    store.record_pull_request(task.id, pull_request)
    return Proposed(pull_request, changes.count)


def _words(command: ProposeCommand) -> tuple[str, str]:
    title = " ".join((command.title or "").split()) or command.task.title
    body = command.task.body if command.body is None else command.body
    if len(title) > MAX_TITLE_CHARS:
        raise InvalidInput(f"title may have at most {MAX_TITLE_CHARS} characters")
    if len(body) > MAX_BODY_CHARS:
        raise InvalidInput(f"body may have at most {MAX_BODY_CHARS} characters")
    return title, body


# --- the commit that the changes are applied to -------------------------------------------------------------


def _base(destination: Destination, agents_commit: str | None) -> Base:
    """The commit that the agent started from, or the target's newest when GitHub no longer has it."""
    head = destination.github.head(destination.repository, destination.target)
    if head is None:
        raise _missing(destination)
    if agents_commit and (seen := destination.github.commit(destination.repository, agents_commit)):
        return Base(seen, is_the_agents=True)
    newest = destination.github.commit(destination.repository, head)
    if newest is None:
        raise _missing(destination)
    return Base(newest, is_the_agents=False)


def _missing(destination: Destination) -> NotFound:
    name = destination.repository.full_name
    try:
        destination.github.access(destination.repository)
    except GitHubRefused as refused:
        return NotFound(f"Cannot access repository {name}: {refused.reason}", code="repository_not_found")
    return NotFound(f"Branch '{destination.target}' does not exist in {name}", code="branch_not_found")


class _BaseFiles:
    """The files at the base, listed at their first use: most pull requests do not need them."""

    def __init__(self, destination: Destination, tree: str) -> None:
        self._destination = destination
        self._tree = tree
        self._entries: Mapping[str, TreeEntry] | None = None

    def entries(self) -> Mapping[str, TreeEntry]:
        if self._entries is None:
            self._entries = self._destination.github.tree(self._destination.repository, self._tree)
        return self._entries

    def file(self, path: str) -> File | None:
        entry = self.entries().get(path)
        return File(entry.mode, self._destination.github.blob(self._destination.repository, entry)) if entry else None


@contextmanager
def _readable(destination: Destination) -> Iterator[None]:
    """Raises Forbidden when GitHub does not let the token read the repository."""
    try:
        yield
    except GitHubRefused as refused:
        text = f"Cannot access repository {destination.repository.full_name}: {refused.reason}"
        raise Forbidden(text, code="repository_not_accessible") from refused


# --- writing to GitHub --------------------------------------------------------------------------------------------


def _tree(destination: Destination, base: Base, files: Files, task: FinishedTask) -> str:
    """The id of the base's tree with the changed files. Raises Conflict when it differs from the agent's tree."""
    tree = destination.github.create_tree(destination.repository, base.commit.tree, files)
    scrubbed = any(file and REDACTED.encode() in file.content for file in files.values())
    if base.is_the_agents and task.tree not in {None, tree} and not scrubbed:
        raise Conflict("The stored changes are incomplete. Run the task again.")
    return tree


def _put_on_branch(destination: Destination, tree: str, base: Base, task: FinishedTask, prompt: str) -> bool:
    """Commit the tree to the branch, which is created unless it exists. True when this call created it.

    Of two concurrent requests, one makes the commit, and the other finds it.
    """
    github, repository, branch = destination.github, destination.repository, destination.branch
    history = github.history(repository, branch)
    if not history:
        commit = github.create_commit(repository, tree=tree, parents=(base.commit.id,), message=task.commit_message)
        return _changed(lambda: github.create_branch(repository, branch, commit.id), destination, tree, task)
    if _holds(destination, tree, task):
        return False
    head = history[0]
    if not task.is_ours(head):
        was_ours = task.was_proposed or any(task.is_ours(commit) for commit in history)
        raise _has_moved(destination) if was_ours else _exists(destination)
    # A newer base becomes a second parent: else the commits up to it would look like the agent's changes.
    seen = {commit.id for commit in history}
    parents = (head.id,) if base.commit.id in seen else (head.id, base.commit.id)
    commit = github.create_commit(repository, tree=tree, parents=parents, message=task.message_of(prompt))
    _changed(lambda: github.move_branch(repository, branch, commit.id), destination, tree, task)
    return False


def _holds(destination: Destination, tree: str, task: FinishedTask) -> bool:
    """Whether the task's newest commit on the branch has this tree. Commits of other authors may follow it."""
    history = destination.github.history(destination.repository, destination.branch)
    return next((commit.tree == tree for commit in history if task.is_ours(commit)), False)


def _changed(change: Callable[[], None], destination: Destination, tree: str, task: FinishedTask) -> bool:
    """Change the branch. False when a concurrent request has made the same change, so that GitHub refuses it."""
    try:
        change()
    except GitHubRefused:
        if not _holds(destination, tree, task):
            raise
        return False
    return True


def _exists(destination: Destination) -> Forbidden:
    text = f"Branch '{destination.branch}' already exists. Please try again or use a different task."
    return Forbidden(text, code="branch_exists")


def _has_moved(destination: Destination) -> Conflict:
    text = (
        f"Branch '{destination.branch}' has commits of other authors and was not changed. "
        "Merge or close its pull request, delete the branch, then try again."
    )
    return Conflict(text, code="branch_has_moved")


def _pull_request(destination: Destination, is_new: bool, *, words: tuple[str, str], draft: bool) -> PullRequest:
    """Create the pull request, or find one that exists. A new branch is deleted when GitHub refuses the pull request.

    The branch stays when GitHub is not responding: the pull request may exist, and the next attempt will find it.
    """
    github, repository, branch = destination.github, destination.repository, destination.branch
    title, body = words
    try:
        return github.create_pull_request(
            repository, branch=branch, target=destination.target, title=title, body=body, draft=draft
        )
    except GitHubRefused as refused:
        if existing := github.open_pull_request(repository, branch):
            return existing
        if is_new:
            _remove_branch(destination)
        if refused.status in {403, 404}:
            text = f"GitHub token lacks permission to create pull requests. Error: {refused.reason}"
            raise Forbidden(text, code="github_token_lacks_permission") from refused
        raise


def _remove_branch(destination: Destination) -> None:
    try:
        destination.github.delete_branch(destination.repository, destination.branch)
    except AppError as error:  # the original error matters more; the next attempt reuses the branch
        log.warning("branch.not_removed", extra={"branch": destination.branch} | error.for_log())


@contextmanager
def _write_errors(destination: Destination, files: Files) -> Iterator[None]:
    """Turns GitHub's refusals to write into the contract's errors."""
    try:
        yield
    except GitHubRefused as refused:
        # GitHub answers 404 to a token without write permission, although the token can read the repository.
        if refused.status != 404 and "resource not accessible" not in refused.reason.lower():
            text = f"Failed to create branch '{destination.branch}': {refused.reason}"
            raise Forbidden(text, code="branch_refused") from refused
        text = LACKS_PERMISSION.format(reason=refused.reason)
        if any(path.startswith(WORKFLOWS) for path in files):
            text += f". Changes below {WORKFLOWS} need the 'workflow' scope too."
        raise Forbidden(text, code="github_token_lacks_permission") from refused
