import pytest

from tests.fakes.tokens import bearer, own_claims, signed
from tests.unit.api.conformance import undescribed

ME = "/api/me"
KEYS = {
    "id",
    "email",
    "full_name",
    "avatar_url",
    "github_username",
    "preferences",
    "created_at",
    "updated_at",
    "is_test_user",
    "expires_at",
}


def patch(client, headers, body):
    return client.request("PATCH", ME, headers=headers, json=body)


def changed(client, headers, **body):
    answer = patch(client, headers, body)
    assert answer.status == 200, answer.text
    return answer.json()["user"]


def test_a_user_sees_the_own_profile_without_the_git_token(client, as_user, user):
    answer = client.get(ME, headers=as_user)

    assert (answer.status, answer.json()["status"]) == (200, "success")
    assert undescribed(client, "getProfile", answer) == []
    profile = answer.json()["user"]
    assert profile.keys() == KEYS
    assert (profile["id"], profile["is_test_user"], profile["preferences"]) == (user, False, {})


def test_what_is_sent_is_changed_null_clears_it_and_the_rest_stays(client, as_user):
    changed(client, as_user, full_name="  Ada Lovelace ", github_username="ada", avatar_url="https://example.com/a.png")
    after = changed(client, as_user, avatar_url=None)

    assert (after["full_name"], after["github_username"], after["avatar_url"]) == ("Ada Lovelace", "ada", None)
    assert client.get(ME, headers=as_user).json()["user"] == after
    assert undescribed(client, "updateProfile", patch(client, as_user, {"github_username": None})) == []


def test_preferences_are_replaced_section_by_section(client, as_user):
    changed(client, as_user, preferences={"claudeCode": {"env": {"A": "1"}}, "editor": {"theme": "dark"}})
    after = changed(client, as_user, preferences={"claudeCode": {"env": {"B": "2"}}})
    assert after["preferences"] == {"claudeCode": {"env": {"B": "2"}}, "editor": {"theme": "dark"}}

    after = changed(client, as_user, preferences={"claudeCode": None})
    assert after["preferences"] == {"editor": {"theme": "dark"}}
    assert changed(client, as_user, preferences={})["preferences"] == {"editor": {"theme": "dark"}}
    assert changed(client, as_user, preferences=None)["preferences"] == {}


@pytest.mark.parametrize(
    "body",
    [
        {"full_name": "x" * 200},
        {"full_name": "Ada 👩‍💻 Lovelace"},
        {"avatar_url": "http://example.com"},
        {"avatar_url": "HTTPS://example.com/a?b=c#d"},
        {"avatar_url": "https://example.com/" + "a" * 2028},
        {"github_username": "a"},
        {"github_username": "a-b-c"},
        {"github_username": "A1" * 19 + "x"},
        {"github_username": "octo-cat_corp"},
    ],
)
def test_what_is_sound_is_accepted(client, as_user, body):
    assert {key: changed(client, as_user, **body)[key] for key in body} == body


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "No data provided"),
        ([], "No data provided"),
        (["full_name"], "The body must be a JSON object"),
        ({"email": "other@example.com"}, "No data provided"),
        ({"id": "x", "is_test_user": True, "github_token": "ghp_x", "expires_at": None}, "No data provided"),
        ({"full_name": ""}, "full_name must have 1 to 200 characters, not only blanks"),
        ({"full_name": " \n"}, "full_name must have 1 to 200 characters, not only blanks"),
        ({"full_name": "x" * 201}, "full_name must have 1 to 200 characters, not only blanks"),
        ({"full_name": "a\0b"}, "full_name must have 1 to 200 characters, not only blanks"),
        ({"full_name": 7}, "full_name must be a string"),
        ({"full_name": ["x"]}, "full_name must be a string"),
        ({"preferences": []}, "preferences must be an object"),
        ({"preferences": "x"}, "preferences must be an object"),
    ],
)
def test_what_is_unsound_is_refused_with_a_sentence(client, as_user, body, text):
    answer = patch(client, as_user, body)

    assert (answer.status, answer.json()) == (400, {"error": text, "code": "invalid_input"})


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/a.png",
        "//example.com/a.png",
        "ftp://example.com/a.png",
        "javascript:alert(1)",
        "javascript://example.com/%0aalert(1)",
        "data:image/png;base64,AAAA",
        "https://",
        "https:///a.png",
        "https://example.com/a b",
        "https://example.com/\n",
        "https://[::1",
        "https://example.com/\0",
        "https://example.com/" + "a" * 2029,
    ],
)
def test_an_avatar_is_at_a_web_address(client, as_user, url):
    answer = patch(client, as_user, {"avatar_url": url})

    assert (answer.status, answer.json()["code"]) == (400, "invalid_input")
    assert answer.json()["error"].startswith("avatar_url must be an http(s) URL")


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "a--b", "a_", "_a", "a_b_c", "a b", "@ada", "ada\n", "é", "github.com/ada", "x" * 40]
)
def test_a_github_username_follows_githubs_rule(client, as_user, name):
    answer = patch(client, as_user, {"github_username": name})

    assert (answer.status, answer.json()["code"]) == (400, "invalid_input")
    assert answer.json()["error"].startswith("github_username must be the name of a GitHub account")


def test_one_wrong_value_and_nothing_is_changed(client, as_user):
    before = client.get(ME, headers=as_user).json()

    assert patch(client, as_user, {"full_name": "Ada", "github_username": "-"}).status == 400
    assert client.get(ME, headers=as_user).json() == before


@pytest.mark.parametrize(
    "preferences",
    [
        {"claudeCode": {"env": {"LD_PRELOAD": "a very private value"}}},
        {"claudeCode": {"env": {"KEY": ["a very private value"]}}},
        {"claudeCode": {"env": {"not a name": "a very private value"}}},
        {"claudeCode": "a very private value"},
        {"other": "a very private value\0"},
        {"other": "a very private value" * 10_000},
    ],
)
def test_refused_preferences_appear_in_no_answer_and_no_log(client, as_user, capsys, caplog, preferences):
    answer = patch(client, as_user, {"preferences": preferences})

    assert (answer.status, answer.json()["code"]) == (400, "invalid_input")
    assert "very private" not in answer.text + capsys.readouterr().out + caplog.text
    assert client.get(ME, headers=as_user).json()["user"]["preferences"] == {}


def test_accepted_preferences_appear_in_no_log(client, as_user, capsys, caplog):
    caplog.set_level("DEBUG")
    changed(client, as_user, preferences={"claudeCode": {"env": {"KEY": "a very private value"}}})

    assert "very private" not in capsys.readouterr().out + caplog.text


def test_whoever_was_deleted_a_moment_ago_has_no_profile(client, world, as_user, user):
    assert client.get(ME, headers=as_user).status == 200
    world.users.existing.remove(user)  # and is still known for a minute

    for answer in (client.get(ME, headers=as_user), patch(client, as_user, {"full_name": "Ada"})):
        assert (answer.status, answer.json()) == (404, {"error": "User not found", "code": "not_found"})


def test_two_users_each_see_their_own(client, world, as_user):
    changed(client, as_user, full_name="Ada")
    other = world.new_user()

    profile = client.get(ME, headers=bearer(signed(own_claims(other)))).json()["user"]
    assert (profile["id"], profile["full_name"]) == (other, None)


def test_nobody_has_no_profile(client):
    assert client.get(ME).status == 401
    assert patch(client, None, {"full_name": "Ada"}).status == 401


def test_a_database_that_is_down_is_an_outage(client, world, as_user):
    client.get(ME, headers=as_user)
    world.users.down = True

    assert client.get(ME, headers=as_user).status == 503
    assert patch(client, as_user, {"full_name": "Ada"}).status == 503


def test_the_description_of_a_change_names_no_default_which_would_clear_what_is_there(client):
    schema = client.get("/openapi.json").json()["components"]["schemas"]["UpdateProfileRequest"]

    assert schema["properties"].keys() == {"full_name", "avatar_url", "github_username", "preferences"}
    assert not any("default" in field for field in schema["properties"].values())
