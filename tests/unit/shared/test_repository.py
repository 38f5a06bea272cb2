import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.errors import InvalidInput
from shared.domain.repository import Repository, branch_name

GITHUB = {"https://github.com"}


@pytest.mark.parametrize(
    "text",
    [
        "https://github.com/o/r",
        "https://github.com/o/r/",
        "https://github.com/o/r.git",
        "https://github.com/o/r.git/",
        "https://GitHub.com/o/r",
        "  https://github.com/o/r\n",
        "git@github.com:o/r",
        "git@github.com:o/r.git",
    ],
)
def test_every_way_to_write_a_repository_becomes_one_url(text):
    assert Repository.parse(text, origins=GITHUB).url == "https://github.com/o/r"


def test_an_enterprises_accounts_have_an_underscore_in_their_names():
    assert Repository.parse("https://github.com/octo_acme/r", origins=GITHUB).owner == "octo_acme"


def test_a_name_may_look_like_a_suffix():
    repository = Repository.parse("https://github.com/o/o.github.io.git", origins=GITHUB)

    assert (repository.owner, repository.name, repository.full_name) == ("o", "o.github.io", "o/o.github.io")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bad",
        "/etc/passwd",
        "file:///etc",
        "http://github.com/o/r",
        "ssh://git@github.com/o/r",
        "https://www.github.com/o/r",
        "https://github.com.evil.example/o/r",
        "https://evil.example/github.com/o/r",
        "https://github.com@evil.example/o/r",
        "https://token@github.com/o/r",
        "https://user:token@github.com/o/r",
        "https://github.com:8443/o/r",
        "https://github.com:x/o/r",
        "https://github.com/o",
        "https://github.com/o/",
        "https://github.com//r",
        "https://github.com/o/r/tree/main",
        "https://github.com/o/r?x=1",
        "https://github.com/o/r?",
        "https://github.com/o/r#x",
        "https://github.com/o/..",
        "https://github.com/o/.git",
        "https://github.com/-o/r",
        "https://github.com/o/r%2e%2e",
        "https://github.com/o/r;rm",
        "https://@github.com/o/r",
        "https://github.com:/o/r",
        "https://github.com:0/o/r",
        "https://git\thub.com/o/r",
        "https://github.com/o/\nr",
        "\0https://github.com/o/r",
        "https://github.com/o/r//",
        "git@github.com:o/r/",
        "https://github.com/o/r r",
        "https://[::1/o/r",
        "git@evil.example:o/r",
        "git@github.com:o/r/x",
        "git@github.com:../r",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(InvalidInput):
        Repository.parse(text, origins=GITHUB)


def test_a_refused_url_with_a_token_is_not_repeated():
    with pytest.raises(InvalidInput) as refused:
        Repository.parse("https://x:ghp_secret@github.com/o/r", origins=GITHUB)

    assert "secret" not in str(refused.value)


def test_another_origin_is_allowed_by_its_exact_scheme_host_and_port():
    origins = {"http://127.0.0.1:3001"}

    assert Repository.parse("http://127.0.0.1:3001/o/r", origins=origins).origin == "http://127.0.0.1:3001"
    for other in ("http://127.0.0.1:3002/o/r", "https://127.0.0.1:3001/o/r", "http://127.0.0.1/o/r"):
        with pytest.raises(InvalidInput):
            Repository.parse(other, origins=origins)


@given(st.text(max_size=60) | st.from_regex(r"https://github\.com/.{0,40}"))
def test_whatever_is_accepted_is_safe_to_hand_to_git(text):
    try:
        url = Repository.parse(text, origins=GITHUB).url
    except InvalidInput:
        return
    path = url.removeprefix("https://github.com/")
    assert path.isascii()
    assert path.count("/") == 1
    assert not set(path) & set(" \t\r\n@:?#%;&$`'\"\\")
    assert Repository.parse(url, origins=GITHUB).url == url


@pytest.mark.parametrize("text", [None, "", "  "])
def test_no_branch_is_main(text):
    assert branch_name(text) == "main"


@pytest.mark.parametrize("text", ["main", "feature/x", "v1.2", "größe", "a" * 244, " main "])
def test_a_branch_that_git_allows_is_taken(text):
    assert branch_name(text) == text.strip()


REFUSED = [
    *("-x", "--upload-pack=x", "@", "@{u}", "a..b", "a.", ".a", "a/.b", "a.lock", "a.lock/b", "/a", "a/", "a//b"),
    *(f"a{character}b" for character in " \n\0\x7f~^:?*[\\"),
    "a" * 245,
    "é" * 123,
]


@pytest.mark.parametrize("text", REFUSED)
def test_a_branch_that_git_refuses_or_could_take_for_an_option_is_refused(text):
    with pytest.raises(InvalidInput):
        branch_name(text)
