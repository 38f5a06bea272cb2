"""GitHub in memory: files and commits have ids as git would give them, or at least as different."""

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.domain.binary_patch import blob_id
from shared.domain.changes import TreeEntry
from shared.domain.patch import File
from shared.domain.pull_request import (
    COMMITTER,
    Commit,
    GitHubRefused,
    PullRequest,
    RepositoryAccess,
    TokenOwner,
    TokenRefused,
)
from shared.domain.repository import Repository
from shared.domain.secret import Secret

NOT_FOUND = (404, "Not Found")
NO_WRITING = (403, "Resource not accessible by personal access token")


@dataclass
class FakeRepository:
    """What is in one repository, for everybody to look at."""

    only_for: str | None = None  # a private one: the token that sees it
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    trees: dict[str, dict[str, TreeEntry]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    pulls: list[dict] = field(default_factory=list)
    ids: itertools.count = field(default_factory=lambda: itertools.count(1))

    def add_commit(self, files, *parents, message="Begin", email="ada@example.test", branch=None):
        """A commit with just these `{path: File}`."""
        tree = self.add_tree(self._entries(files))
        return self.commit_tree(tree, *parents, message=message, email=email, branch=branch)

    def commit_tree(self, tree, *parents, message, email, branch=None):
        commit_id = hashlib.sha1(repr((tree, parents, next(self.ids))).encode()).hexdigest()
        self.commits[commit_id] = Commit(
            id=commit_id, tree=tree, parents=parents, message=message, committer_email=email
        )
        if branch:
            self.branches[branch] = commit_id
        return commit_id

    def files(self, branch):
        tree = self.trees[self.commits[self.branches[branch]].tree]
        return {path: File(entry.mode, self.blobs[entry.id]) for path, entry in tree.items()}

    def add_tree(self, entries):
        tree_id = hashlib.sha1(repr(sorted((p, e.mode, e.id) for p, e in entries.items())).encode()).hexdigest()
        self.trees[tree_id] = entries
        return tree_id

    def _entries(self, files):
        self.blobs |= {blob_id(file.content): file.content for file in files.values()}
        return {path: TreeEntry(file.mode, blob_id(file.content)) for path, file in files.items()}

    def ancestors(self, commit_id):
        return {commit_id}.union(*(self.ancestors(parent) for parent in self.commits[commit_id].parents))


@dataclass
class FakeGitHub:
    """`seen_with(token)` is the way in. `fails` makes methods raise, each once; `calls` are their names."""

    repositories: dict[str, FakeRepository] = field(default_factory=lambda: {"o/r": FakeRepository()})
    owners: dict[str, TokenOwner] = field(
        default_factory=lambda: {
            "tok": TokenOwner("octo", frozenset({"repo"})),
            "tok_ro": TokenOwner("octo", None),
        }
    )
    read_only: set[str] = field(default_factory=lambda: {"tok_ro"})
    fails: dict[str, Exception] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def seen_with(self, token: Secret) -> "FakeClient":
        return FakeClient(self, token.reveal())

    @property
    def changed(self) -> bool:
        """Whether anything was written."""
        return any(call.startswith(("create", "move", "delete")) for call in self.calls)


class FakeClient:
    def __init__(self, github: FakeGitHub, token: str) -> None:
        self._github = github
        self._token = token

    def owner(self) -> TokenOwner:
        self._enter("owner")
        return self._github.owners[self._token]

    def access(self, repository: Repository) -> RepositoryAccess:
        there = self._repository("access", repository)
        return RepositoryAccess(
            full_name=repository.full_name,
            private=there.only_for is not None,
            default_branch="main",
            can_push=self._token not in self._github.read_only,
            is_admin=False,
        )

    def head(self, repository: Repository, branch: str) -> str | None:
        there = self._found("head", repository)
        return there.branches.get(branch) if there else None

    def commit(self, repository: Repository, commit_id: str) -> Commit | None:
        there = self._found("commit", repository)
        return there.commits.get(commit_id) if there else None

    def history(self, repository: Repository, branch: str) -> tuple[Commit, ...]:
        there = self._found("history", repository)
        if there is None or branch not in there.branches:
            return ()
        known = there.ancestors(there.branches[branch])
        return tuple(commit for commit in reversed(there.commits.values()) if commit.id in known)[:100]

    def tree(self, repository: Repository, tree_id: str) -> Mapping[str, TreeEntry]:
        trees = self._repository("tree", repository).trees
        if tree_id not in trees:
            raise GitHubRefused(*NOT_FOUND)
        return trees[tree_id]

    def blob(self, repository: Repository, entry: TreeEntry) -> bytes:
        blobs = self._repository("blob", repository).blobs
        if entry.id not in blobs:
            raise GitHubRefused(*NOT_FOUND)
        return blobs[entry.id]

    def create_tree(self, repository: Repository, base_tree: str, files: Mapping[str, File | None]) -> str:
        there = self._writable("create_tree", repository)
        if base_tree not in there.trees:
            raise GitHubRefused(422, "base_tree is not a valid tree oid")
        gone = {path for path, file in files.items() if file is None}
        if not gone <= there.trees[base_tree].keys():
            raise GitHubRefused(422, "GitRPC::BadObjectState")
        kept = {path: entry for path, entry in there.trees[base_tree].items() if path not in gone}
        return there.add_tree(kept | there._entries({path: file for path, file in files.items() if file}))

    def create_commit(self, repository: Repository, *, tree: str, parents: tuple[str, ...], message: str) -> Commit:
        there = self._writable("create_commit", repository)
        if tree not in there.trees:
            raise GitHubRefused(422, "Tree SHA does not exist")
        if not there.commits.keys() >= set(parents):
            raise GitHubRefused(422, "Parent SHA does not exist or is not a commit object")
        return there.commits[there.commit_tree(tree, *parents, message=message, email=COMMITTER[1])]

    def create_branch(self, repository: Repository, branch: str, commit_id: str) -> None:
        there = self._writable("create_branch", repository)
        if commit_id not in there.commits:
            raise GitHubRefused(422, "Object does not exist")
        if branch in there.branches:
            raise GitHubRefused(422, "Reference already exists")
        there.branches[branch] = commit_id

    def move_branch(self, repository: Repository, branch: str, commit_id: str) -> None:
        there = self._writable("move_branch", repository)
        if branch not in there.branches:
            raise GitHubRefused(422, "Reference does not exist")
        if there.branches[branch] not in there.ancestors(commit_id):
            raise GitHubRefused(422, "Update is not a fast forward")
        there.branches[branch] = commit_id

    def delete_branch(self, repository: Repository, branch: str) -> None:
        there = self._writable("delete_branch", repository)
        if there.branches.pop(branch, None) is None:
            raise GitHubRefused(422, "Reference does not exist")
        for pull in there.pulls:
            pull["open"] = pull["open"] and pull["branch"] != branch

    def open_pull_request(self, repository: Repository, branch: str) -> PullRequest | None:
        pulls = self._repository("open_pull_request", repository).pulls
        found = [pull for pull in pulls if pull["open"] and pull["branch"] == branch]
        return _shown(repository, found[-1]) if found else None

    def create_pull_request(
        self, repository: Repository, *, branch: str, target: str, title: str, body: str, draft: bool
    ) -> PullRequest:
        there = self._writable("create_pull_request", repository)
        if not {branch, target} <= there.branches.keys():
            raise GitHubRefused(422, "Validation Failed")
        if any(pull["open"] and pull["branch"] == branch for pull in there.pulls):
            reason = f"A pull request already exists for {repository.owner}:{branch}."
            raise GitHubRefused(422, f"Validation Failed: {reason}")
        if there.branches[branch] in there.ancestors(there.branches[target]):
            raise GitHubRefused(422, f"Validation Failed: No commits between {target} and {branch}")
        pull = {"number": len(there.pulls) + 1, "branch": branch, "target": target, "title": title, "body": body}
        there.pulls.append(pull | {"open": True, "draft": draft})
        return _shown(repository, pull)

    def _enter(self, call: str) -> None:
        self._github.calls.append(call)
        if call in self._github.fails:
            raise self._github.fails.pop(call)
        if self._token not in self._github.owners:
            raise TokenRefused("GitHub does not accept the token: Bad credentials")

    def _found(self, call: str, repository: Repository) -> FakeRepository | None:
        self._enter(call)
        found = self._github.repositories.get(repository.full_name)
        return found if found and found.only_for in {None, self._token} else None

    def _repository(self, call: str, repository: Repository) -> FakeRepository:
        found = self._found(call, repository)
        if found is None:
            raise GitHubRefused(*NOT_FOUND)
        return found

    def _writable(self, call: str, repository: Repository) -> FakeRepository:
        found = self._repository(call, repository)
        if self._token in self._github.read_only:
            raise GitHubRefused(*NO_WRITING)
        scopes = self._github.owners[self._token].scopes
        if scopes is not None and scopes.isdisjoint({"repo", "public_repo"}):
            raise GitHubRefused(*NOT_FOUND)
        return found


def _shown(repository: Repository, pull: dict) -> PullRequest:
    url = f"https://github.com/{repository.full_name}/pull/{pull['number']}"
    return PullRequest(pull["branch"], pull["number"], url)
