"""One suite for GitHub: our client at the stand-in, with real repositories, and the fake of the unit tests."""

import pytest

from local.mirrors import TOKEN_FILE
from local.services.github import Account
from shared.adapters.github import HttpGitHub
from shared.domain.binary_patch import blob_id
from shared.domain.changes import TreeEntry
from shared.domain.patch import File
from shared.domain.pull_request import COMMITTER, GitHubRefused, PullRequest, TokenOwner, TokenRefused
from shared.domain.repository import Repository
from shared.domain.secret import Secret
from tests.fakes.github import FakeGitHub, FakeRepository
from tests.integration.github_servers import bare_repository, serving, serving_app

REPOSITORY = Repository("https://github.com", "o", "r")
PRIVATE = Repository("https://github.com", "o", "secret")
MISSING = Repository("https://github.com", "o", "missing")
EMPTY = Repository("https://github.com", "o", "empty")
UNKNOWN_ID = "1" * 40

FILES = {
    "README.md": File("100644", b"# r\n"),
    "bin/run": File("100755", b"#!/bin/sh\n"),
    "link": File("120000", b"README.md"),
    "logo": File("100644", bytes(range(256))),
}
SCOPES = {"tok": ("repo", "gist"), "tok_ro": None, "tok_none": ()}


class FakeWorld:
    def __init__(self):
        self.github = FakeGitHub(
            repositories={
                "o/r": FakeRepository(),
                "o/secret": FakeRepository(only_for="tok"),
                "o/empty": FakeRepository(),
            },
            owners={
                token: TokenOwner("octo", None if scopes is None else frozenset(scopes))
                for token, scopes in SCOPES.items()
            },
        )

    def as_owner_of(self, token):
        return self.github.seen_with(Secret(token))

    def add_commit(self, repository, files, *parents, branch="main"):
        return self.github.repositories[repository.full_name].add_commit(files, *parents, branch=branch)


class RealWorld:
    def __init__(self, root, url):
        self._url = url
        self._git = {name: bare_repository(root, "o", name) for name in ("r", "secret", "empty")}
        (self._git["secret"].folder / TOKEN_FILE).write_text("tok\n")

    def as_owner_of(self, token):
        return HttpGitHub(self._url, Secret(token))

    def add_commit(self, repository, files, *parents, branch="main"):
        return self._git[repository.name].add_commit(files, *parents, branch=branch)


@pytest.fixture(params=["fake", "real"])
def world(request, tmp_path):
    if request.param == "fake":
        yield FakeWorld()
        return
    accounts = {
        token: Account(login="octo", scopes=scopes, can_write=token != "tok_ro") for token, scopes in SCOPES.items()
    }
    with serving(tmp_path, accounts=accounts) as url:
        yield RealWorld(tmp_path, url)


@pytest.fixture
def github(world):
    return world.as_owner_of("tok")


@pytest.fixture
def base(world, github):
    """The newest commit of main."""
    return github.commit(REPOSITORY, world.add_commit(REPOSITORY, FILES))


def files_at(github, branch):
    tree = github.tree(REPOSITORY, github.commit(REPOSITORY, github.head(REPOSITORY, branch)).tree)
    return {path: File(entry.mode, github.blob(REPOSITORY, entry)) for path, entry in tree.items()}


def refusal(action, *arguments, **options):
    with pytest.raises(GitHubRefused) as raised:
        action(*arguments, **options)
    return raised.value.status, raised.value.reason


@pytest.mark.parametrize(("token", "scopes"), SCOPES.items())
def test_a_token_has_an_owner_and_a_classic_one_its_scopes(world, token, scopes):
    expected = TokenOwner("octo", None if scopes is None else frozenset(scopes))

    assert world.as_owner_of(token).owner() == expected


def test_an_unknown_token_is_refused_whatever_is_asked(world):
    stranger = world.as_owner_of("badtoken")

    for ask in (stranger.owner, lambda: stranger.access(REPOSITORY), lambda: stranger.head(REPOSITORY, "main")):
        with pytest.raises(TokenRefused, match="Bad credentials"):
            ask()


@pytest.mark.parametrize(("token", "can_push"), [("tok", True), ("tok_ro", False)])
def test_a_repository_says_what_the_owner_of_the_token_may(world, base, token, can_push):
    access = world.as_owner_of(token).access(REPOSITORY)

    assert (access.full_name, access.private, access.default_branch) == ("o/r", False, "main")
    assert (access.can_push, access.is_admin) == (can_push, False)


def test_what_does_not_exist_is_none_or_refused(github, base):
    assert refusal(github.access, MISSING) == (404, "Not Found")
    assert github.head(MISSING, "main") is None
    assert github.head(EMPTY, "main") is None
    assert github.head(REPOSITORY, "mai") is None
    assert github.commit(REPOSITORY, UNKNOWN_ID) is None
    assert github.commit(REPOSITORY, base.tree) is None
    assert refusal(github.tree, REPOSITORY, UNKNOWN_ID) == (404, "Not Found")
    assert refusal(github.blob, REPOSITORY, TreeEntry("100644", UNKNOWN_ID)) == (404, "Not Found")


def test_files_are_read_with_their_modes_and_bytes(github, base):
    assert files_at(github, "main") == FILES
    assert github.tree(REPOSITORY, base.tree)["logo"] == TreeEntry("100644", blob_id(FILES["logo"].content))


def test_a_branch_with_slashes_and_odd_letters_is_found(world, github, base):
    world.add_commit(REPOSITORY, FILES, branch="feature/ä#1%")

    assert github.head(REPOSITORY, "feature/ä#1%")


def test_a_tree_is_its_base_with_files_put_and_removed(github, base):
    changes = {
        "README.md": File("100755", "# r\r\n\tgrün\n".encode()),
        "bin/run": None,
        "empty": File("100644", b""),
        "nul": File("100644", b"a\0b"),
        "päth/latin1": File("100644", "ü".encode("latin-1")),
        "new link": File("120000", b"../x"),
    }

    tree = github.create_tree(REPOSITORY, base.tree, changes)
    github.create_branch(
        REPOSITORY, "b", github.create_commit(REPOSITORY, tree=tree, parents=(base.id,), message="m").id
    )

    expected = {path: file for path, file in (FILES | changes).items() if file}
    assert files_at(github, "b") == expected
    assert files_at(github, "main") == FILES


def test_a_file_can_take_the_place_of_a_folder_and_a_folder_that_of_a_file(github, base):
    changes = {"bin/run": None, "bin": File("100644", b"file\n"), "link": None, "link/in": File("100644", b"folder\n")}

    tree = github.create_tree(REPOSITORY, base.tree, changes)

    assert github.tree(REPOSITORY, tree).keys() == {"README.md", "bin", "link/in", "logo"}


def test_what_is_not_there_cannot_be_removed(github, base):
    assert refusal(github.create_tree, REPOSITORY, base.tree, {"nothing": None})[0] == 422
    assert refusal(github.create_tree, REPOSITORY, UNKNOWN_ID, {"a": File("100644", b"a")})[0] == 422


def test_a_commit_is_by_us_and_on_no_branch_yet(github, base):
    made = github.create_commit(REPOSITORY, tree=base.tree, parents=(base.id,), message="Claude Code: grün")

    assert github.commit(REPOSITORY, made.id) == made
    assert (made.tree, made.parents, made.message) == (base.tree, (base.id,), "Claude Code: grün")
    assert made.committer_email == COMMITTER[1]
    assert github.head(REPOSITORY, "main") == base.id


def test_the_history_of_a_branch_begins_with_its_newest_commit(world, github, base):
    side = world.add_commit(REPOSITORY, {}, base.id, branch="side")
    made = github.create_commit(REPOSITORY, tree=base.tree, parents=(base.id, side), message="merge\n\nboth")
    github.create_branch(REPOSITORY, "claude-code-1", made.id)

    assert github.history(REPOSITORY, "claude-code-1")[0] == made
    assert {commit.id for commit in github.history(REPOSITORY, "claude-code-1")} == {made.id, side, base.id}
    assert github.history(REPOSITORY, "main") == (base,)
    for repository, branch in ((REPOSITORY, "none"), (MISSING, "main"), (EMPTY, "main")):
        assert github.history(repository, branch) == ()


def test_of_a_long_history_the_newest_part_is_told(world, github, base):
    last = base.id
    for _ in range(110):
        last = world.add_commit(REPOSITORY, {}, last, branch="main")

    assert len(github.history(REPOSITORY, "main")) == 100
    assert github.history(REPOSITORY, "main")[0].id == last


def test_many_files_that_are_no_text_arrive_also_when_it_is_done_again(github, base):
    files = {f"{n}.bin": File("100644", b"\xff%d" % n) for n in range(20)}

    first = github.create_tree(REPOSITORY, base.tree, files)

    assert github.create_tree(REPOSITORY, base.tree, files | {"new.bin": File("100644", b"\xff")}) != first
    assert github.create_tree(REPOSITORY, base.tree, files) == first
    assert github.tree(REPOSITORY, first).keys() == FILES.keys() | files.keys()


def test_a_branch_is_made_once_moved_and_deleted(world, github, base):
    other = world.add_commit(REPOSITORY, {}, branch="other")
    later = world.add_commit(REPOSITORY, {}, base.id, branch="later")
    github.create_branch(REPOSITORY, "claude-code-1", base.id)

    assert refusal(github.create_branch, REPOSITORY, "claude-code-1", other) == (422, "Reference already exists")
    assert refusal(github.create_branch, REPOSITORY, "new", UNKNOWN_ID) == (422, "Object does not exist")
    assert github.head(REPOSITORY, "claude-code-1") == base.id
    github.move_branch(REPOSITORY, "claude-code-1", later)
    for lost in (base.id, other):
        assert refusal(github.move_branch, REPOSITORY, "claude-code-1", lost) == (422, "Update is not a fast forward")
    assert github.head(REPOSITORY, "claude-code-1") == later
    github.delete_branch(REPOSITORY, "claude-code-1")
    assert github.head(REPOSITORY, "claude-code-1") is None
    assert refusal(github.move_branch, REPOSITORY, "claude-code-1", other) == (422, "Reference does not exist")
    assert refusal(github.delete_branch, REPOSITORY, "claude-code-1") == (422, "Reference does not exist")


@pytest.fixture
def proposed(github, base):
    """A branch with a commit that main has not."""
    tree = github.create_tree(REPOSITORY, base.tree, {"a": File("100644", b"a\n")})
    made = github.create_commit(REPOSITORY, tree=tree, parents=(base.id,), message="m")
    github.create_branch(REPOSITORY, "claude-code-1", made.id)
    return {"branch": "claude-code-1", "target": "main", "title": "t", "body": "b", "draft": False}


def test_a_pull_request_is_open_until_its_branch_is_gone(github, proposed):
    assert github.open_pull_request(REPOSITORY, "claude-code-1") is None

    made = github.create_pull_request(REPOSITORY, **proposed)

    assert made == PullRequest("claude-code-1", 1, "https://github.com/o/r/pull/1")
    assert github.open_pull_request(REPOSITORY, "claude-code-1") == made
    assert github.open_pull_request(REPOSITORY, "main") is None
    github.delete_branch(REPOSITORY, "claude-code-1")
    assert github.open_pull_request(REPOSITORY, "claude-code-1") is None


def test_a_second_pull_request_needs_the_first_to_be_closed(github, proposed):
    github.create_pull_request(REPOSITORY, **proposed)
    head = github.head(REPOSITORY, "claude-code-1")

    status, reason = refusal(github.create_pull_request, REPOSITORY, **proposed)
    github.delete_branch(REPOSITORY, "claude-code-1")
    github.create_branch(REPOSITORY, "claude-code-1", head)

    assert (status, reason) == (422, "Validation Failed: A pull request already exists for o:claude-code-1.")
    assert github.create_pull_request(REPOSITORY, **proposed).number == 2


def test_a_pull_request_needs_two_branches_and_a_difference(github, base, proposed):
    github.create_branch(REPOSITORY, "same", base.id)

    nothing_new = refusal(github.create_pull_request, REPOSITORY, **proposed | {"branch": "same"})
    assert nothing_new == (422, "Validation Failed: No commits between main and same")
    for wrong in ({"branch": "none"}, {"target": "none"}):
        assert refusal(github.create_pull_request, REPOSITORY, **proposed | wrong) == (422, "Validation Failed")


def writes(github, repository, base):
    return [
        lambda: github.create_tree(repository, base.tree, {"a": File("100644", b"a")}),
        lambda: github.create_tree(repository, base.tree, {"a": File("100644", b"\0")}),
        lambda: github.create_commit(repository, tree=base.tree, parents=(base.id,), message="m"),
        lambda: github.create_branch(repository, "new", base.id),
        lambda: github.move_branch(repository, "main", base.id),
        lambda: github.delete_branch(repository, "main"),
        lambda: github.create_pull_request(repository, branch="main", target="main", title="t", body="b", draft=True),
    ]


def test_a_token_without_the_right_writes_nothing(world, base):
    no_writing = (403, "Resource not accessible by personal access token")

    for write in writes(world.as_owner_of("tok_ro"), REPOSITORY, base):
        assert refusal(write) == no_writing
    for write in writes(world.as_owner_of("tok_none"), REPOSITORY, base):
        assert refusal(write) == (404, "Not Found")


def test_a_private_repository_is_there_for_its_own_token_only(world):
    commit = world.add_commit(PRIVATE, FILES)
    stranger = world.as_owner_of("tok_ro")

    assert world.as_owner_of("tok").access(PRIVATE).private
    assert world.as_owner_of("tok").head(PRIVATE, "main") == commit
    assert stranger.head(PRIVATE, "main") is None
    assert refusal(stranger.access, PRIVATE) == (404, "Not Found")


def test_one_users_cookies_do_not_reach_the_next():
    """Clients of different tokens share their connections."""
    sent = []

    async def answer(scope, receive, send):
        sent.append(dict(scope["headers"]))
        headers = [(b"content-type", b"application/json"), (b"set-cookie", b"session=mine; Path=/")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"login": "octo"}'})

    with serving_app(answer) as url:
        for token in ("one", "two"):
            HttpGitHub(url, Secret(token)).owner()

    assert [headers[b"authorization"] for headers in sent] == [b"Bearer one", b"Bearer two"]
    assert not any(b"cookie" in headers for headers in sent)
