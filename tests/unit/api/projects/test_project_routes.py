import pytest

from functions.api.web.json_response import MAX_BYTES
from functions.api.web.request_body import MAX_BODY_BYTES, MAX_LEVELS
from shared.domain.project import MAX_SETTINGS_BYTES, MAX_SETUP_SCRIPT_BYTES
from tests.fakes.tokens import bearer, own_claims, signed
from tests.unit.api.conformance import undescribed

URL = "https://github.com/acme/widgets"
BAD_URL = "Invalid GitHub URL format: {}"
REQUIRED = "name and repo_url are required"
KEYS = {
    *("id", "user_id", "repo_url", "repo_name", "repo_owner", "name", "description", "is_active", "settings"),
    *("created_at", "updated_at", "is_test_data", "task_count", "completed_tasks", "active_tasks"),
}
NO_SUCH_ID = ["987654", "0", "9223372036854775808", "9" * 5000]


@pytest.fixture
def send(client, as_user):
    def request(method, path="", *, headers=as_user, **options):
        return client.request(method, f"/api/projects{path}", headers=headers, **options)

    return request


@pytest.fixture
def create(send):
    return lambda **changes: send("POST", json={"name": "Widgets", "repo_url": URL} | changes)


@pytest.fixture
def project(create):
    return create().json()["project"]


@pytest.fixture
def stored(world):
    """What the database holds of each project, to be compared with later."""
    return lambda: {key: dict(row) for key, row in world.database.projects.items()}


def refusal(answer):
    return answer.status, answer.json()["error"]


def test_the_answers_are_as_described(client, send, create):
    made = create()
    path = f"/{made.json()['project']['id']}"
    answers = {
        "createProject": made,
        "listProjects": send("GET"),
        "getProject": send("GET", path),
        "updateProject": send("PUT", path, json={"name": "Gadgets"}),
        "deleteProject": send("DELETE", path),
    }

    assert {answer.status for answer in answers.values()} == {200}
    assert [problem for name, answer in answers.items() for problem in undescribed(client, name, answer)] == []


def test_a_new_project_is_answered_with_its_whole_row(create, user):
    answer = create()
    made = answer.json()["project"]

    assert (answer.status, answer.json()["status"]) == (200, "success")
    assert made.keys() == KEYS
    assert (made["user_id"], made["name"], made["repo_url"]) == (user, "Widgets", URL)
    assert (made["repo_owner"], made["repo_name"]) == ("acme", "widgets")
    assert (made["description"], made["settings"], made["is_active"]) == ("", {}, True)
    assert (made["task_count"], made["completed_tasks"], made["active_tasks"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"description": None}, {"description": None}),
        ({"description": "Grüße 世界"}, {"description": "Grüße 世界"}),
        ({"settings": None}, {"settings": {}}),
        ({"settings": {"setup_script": None}}, {"settings": {"setup_script": None}}),
        ({"settings": {"theme": ["x", 1.5, None]}}, {"settings": {"theme": ["x", 1.5, None]}}),
        ({"settings": {"env": {"A": "ä", "B": 3}}}, {"settings": {"env": {"A": "ä", "B": 3}}}),
        ({"settings": {"env": None}}, {"settings": {"env": None}}),
        ({"repo_url": URL + " " * (500 - len(URL))}, {"repo_name": "widgets"}),
        ({"name": "  as sent "}, {"name": "  as sent "}),
        ({"name": "x" * 200, "description": "x" * 10_000}, {"name": "x" * 200}),
        ({"settings": {"setup_script": "é" * (MAX_SETUP_SCRIPT_BYTES // 2)}}, {}),
        ({"settings": {"x": "y" * (MAX_SETTINGS_BYTES - len('{"x": ""}'))}}, {}),
        (
            {"id": 7, "user_id": "x", "created_at": "2020", "is_test_data": True, "is_active": False},
            {"is_active": True},
        ),
    ],
)
def test_what_is_accepted_is_stored_as_it_was_sent(create, send, user, sent, kept):
    made = create(**sent).json()["project"]

    assert made.items() >= kept.items()
    assert (made["user_id"], made["is_test_data"]) == (user, False)
    assert send("GET", f"/{made['id']}").json() == {"status": "success", "project": made}


SPELLINGS = [
    URL,
    f"{URL}.git",
    f"{URL}/",
    f"  {URL}\n",
    "git@github.com:acme/widgets",
    "git@github.com:acme/widgets.git",
]
OTHERS = [
    *("http://github.com/o/r", "https://www.github.com/o/r", "https://gitlab.com/o/r", "ssh://git@github.com/o/r"),
    *(
        "https://github.com/o/r/tree/main",
        "https://github.com/o/r?x=1",
        "https://github.com/o/r#x",
        "https://github.com/o",
    ),
    *(
        "https://github.com.evil.example/o/r",
        "https://evil.example/github.com/o/r",
        "https://github.com@evil.example/o/r",
    ),
    *("https://github.com:443/o/r", "https://github.com:/o/r", "https://github.com:0/o/r", "https://@github.com/o/r"),
    *("https://git\thub.com/o/r", "https://github.com/o/\nr", "\0https://github.com/o/r", "https://github.com/o/r//"),
    *("git@github.com:o/r/", "git@github.com:o/r/x", "git@gitlab.com:o/r", "file:///etc", "/etc/passwd", "bad", "o/r"),
]


@pytest.mark.parametrize("url", SPELLINGS)
def test_a_url_is_kept_as_sent_whatever_its_spelling(create, url):
    made = create(repo_url=url).json()["project"]

    assert (made["repo_url"], made["repo_owner"], made["repo_name"]) == (url, "acme", "widgets")


@pytest.mark.parametrize("url", OTHERS)
def test_any_other_url_is_refused_and_shown_as_it_was_sent(create, send, project, stored, url):
    before = stored()

    assert refusal(create(repo_url=url)) == (400, BAD_URL.format(url))
    assert refusal(send("PUT", f"/{project['id']}", json={"repo_url": url})) == (400, BAD_URL.format(url))
    assert stored() == before


def test_of_a_refused_url_the_credentials_do_not_come_back(create):
    assert refusal(create(repo_url="https://x:ghp_secret@github.com/o/r")) == (
        400,
        BAD_URL.format("https://[REDACTED]@github.com/o/r"),
    )


def test_a_repository_may_be_on_any_origin_that_tasks_may_use(world, as_user):
    client = world.client(repo_origins=frozenset({"http://127.0.0.1:3001", "https://github.com"}))
    for url in ("http://127.0.0.1:3001/o/r", "https://github.com/o/r"):
        answer = client.post("/api/projects", headers=as_user, json={"name": "x", "repo_url": url})
        assert answer.status == 200
    answer = client.post("/api/projects", headers=as_user, json={"name": "x", "repo_url": "http://127.0.0.1:3002/o/r"})
    assert refusal(answer) == (400, BAD_URL.format("http://127.0.0.1:3002/o/r"))


REFUSED_ON_CREATION = [
    *(({"name": nothing}, REQUIRED) for nothing in (None, "", "  \n", 0, False, [])),
    *(({"repo_url": nothing}, REQUIRED) for nothing in (None, "", "  ")),
    ({"name": None, "settings": 5}, REQUIRED),
]
REFUSED = [
    ({"name": 5}, "name must be a string"),
    ({"name": ["x"]}, "name must be a string"),
    ({"name": "x" * 201}, "name may have at most 200 characters"),
    ({"repo_url": 5}, "repo_url must be a string"),
    ({"repo_url": URL + " " * 500}, "repo_url may have at most 500 characters"),
    ({"description": 5}, "description must be a string"),
    ({"description": "x" * 10_001}, "description may have at most 10000 characters"),
    ({"settings": "x"}, "settings must be an object"),
    ({"settings": [1]}, "settings must be an object"),
    ({"settings": {"setup_script": 5}}, "settings.setup_script must be a string or null"),
    ({"settings": {"network": "example.org"}}, "settings.network must be a list of hosts."),
    (
        {"settings": {"network": ["0.0.0.0/0"]}},
        "settings.network: entry 1 must be a public host such as example.org or *.example.org, or an IPv4 address, "
        "without scheme, port and path.",
    ),
    (
        {"settings": {"setup_script": "é" * (MAX_SETUP_SCRIPT_BYTES // 2) + "x"}},
        "settings.setup_script may have at most 65536 bytes",
    ),
    ({"settings": {"env": "A=hush"}}, "settings.env must be an object."),
    (
        {"settings": {"env": {"A": "1", "PATH": "hush"}}},
        "settings.env.PATH cannot be set: the agent and its tools are found by it.",
    ),
    ({"settings": {"env": {"A": ["hush"]}}}, "settings.env.A must be a string, a number, true or false."),
    ({"settings": {"env": {"A": "hush" * 9000}}}, "settings.env.A is longer than 32 KiB."),
    (
        {"settings": {"env": {"TOKEN=hush": "x"}}},
        "settings.env.TOKEN… must be a name of letters, digits and underscores, at most 128 long.",
    ),
    ({"settings": {"x": "y" * MAX_SETTINGS_BYTES}}, "settings may have at most 262144 bytes as JSON"),
    ({"name": "a\0b"}, "Text must not contain the character NUL."),
    ({"settings": {"a": ["\0"]}}, "Text must not contain the character NUL."),
]
REFUSED_ON_CHANGE = [
    ({"name": None}, "name must be a string"),
    ({"name": " "}, "name must not be blank"),
    ({"repo_url": None}, "repo_url must be a string"),
    ({"repo_url": ""}, BAD_URL.format("")),
    ({"is_active": None}, "is_active must be true or false"),
    ({"is_active": 1}, "is_active must be true or false"),
]


@pytest.mark.parametrize(("sent", "sentence"), [*REFUSED_ON_CREATION, *REFUSED])
def test_a_project_that_cannot_be_is_refused_with_a_sentence_and_stores_nothing(create, stored, sent, sentence):
    answer = create(**sent)

    assert refusal(answer) == (400, sentence)
    assert answer.json()["code"] == "invalid_input"
    assert stored() == {}


@pytest.mark.parametrize(("sent", "sentence"), [*REFUSED_ON_CHANGE, *REFUSED])
def test_a_change_that_cannot_be_is_refused_with_a_sentence_and_changes_nothing(send, project, stored, sent, sentence):
    before = stored()

    assert refusal(send("PUT", f"/{project['id']}", json={"description": "new"} | sent)) == (400, sentence)
    assert stored() == before


@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("PUT", "/{id}")])
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        *((nothing, "No data provided") for nothing in (b"{}", b"[]", b"null", b'""', b"0", b"false")),
        (b"[1]", "The body must be a JSON object"),
        (b"{bad", "The body is not valid JSON"),
        (b'{"settings": {"x": NaN}}', "The body is not valid JSON"),
        (b'{"settings": {"x": 1e999}}', "The body is not valid JSON"),
        (b'{"settings": {"x": "\\ud800"}}', "The body is not valid JSON"),
        (
            b'{"name": "x", "settings": {"x": ' + b"[" * MAX_LEVELS + b"]" * MAX_LEVELS + b"}}",
            f"The body may be nested at most {MAX_LEVELS} levels deep",
        ),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "The body is not valid JSON"),
    ],
)
def test_a_body_that_says_nothing_is_refused(send, as_user, project, method, path, body, sentence):
    headers = as_user | {"content-type": "application/json"}

    answer = send(method, path.format(id=project["id"]), headers=headers, content=body)

    assert refusal(answer) == (400, sentence)


def test_a_body_has_a_greatest_size(create):
    answer = create(settings={"x": "y" * MAX_BODY_BYTES})

    assert (answer.status, answer.json()["code"]) == (413, "too_large")


def test_the_rules_for_the_body_come_before_the_look_into_the_database(send):
    assert refusal(send("PUT", "/987654", json={})) == (400, "No data provided")
    assert refusal(send("PUT", "/987654", json={"repo_url": "bad"})) == (400, BAD_URL.format("bad"))
    assert refusal(send("PUT", "/987654", json={"name": "q"})) == (404, "Project not found")
    assert refusal(send("PUT", "/987654", json={"bogus": 1})) == (404, "Project not found")


@pytest.mark.parametrize("url", [*SPELLINGS, "https://GitHub.com/Acme/WIDGETS", "git@github.com:ACME/widgets.git"])
def test_a_second_project_of_a_repository_is_refused_and_the_first_one_named(create, send, project, stored, url):
    other = create(repo_url="https://github.com/acme/other").json()["project"]
    before = stored()

    for answer in (
        create(name="Again", repo_url=url),
        send("PUT", f"/{other['id']}", json={"repo_url": url, "name": "Again"}),
    ):
        assert answer.status == 409
        assert answer.json()["error"].lower() == "you already have a project for acme/widgets: widgets"
        assert (answer.json()["code"], answer.json()["project_id"]) == ("project_exists", project["id"])
    assert stored() == before


def test_another_user_may_have_a_project_of_the_same_repository(world, project):
    headers = bearer(signed(own_claims(world.new_user())))

    answer = world.client().post("/api/projects", headers=headers, json={"name": "x", "repo_url": URL})

    assert answer.status == 200


def test_a_change_touches_what_is_sent_and_nothing_else(send, project, stored):
    path = f"/{project['id']}"
    send("PUT", path, json={"settings": {"a": 1}, "description": "old"})

    changed = send("PUT", path, json={"name": "New", "is_active": False}).json()["project"]

    assert changed.keys() == KEYS
    assert (changed["name"], changed["is_active"]) == ("New", False)
    assert (changed["repo_url"], changed["description"], changed["settings"]) == (URL, "old", {"a": 1})
    assert (
        send("PUT", path, json={"description": None, "settings": None}).json()["project"].items()
        >= {
            "name": "New",
            "description": None,
            "settings": {},
        }.items()
    )


def test_a_new_url_brings_a_new_owner_and_name(send, project):
    url = " git@github.com:Else/renamed.git"

    changed = send("PUT", f"/{project['id']}", json={"repo_url": url}).json()["project"]

    assert (changed["repo_url"], changed["repo_owner"], changed["repo_name"]) == (url, "Else", "renamed")


def test_keys_that_decide_rights_and_unknown_ones_are_ignored(world, send, project, stored):
    before = stored()
    ignored = {"id": 1, "user_id": world.new_user(), "created_at": "2020-01-01", "is_test_data": True, "bogus": None}
    ignored |= {"repo_owner": "evil", "repo_name": "evil", "task_count": 9, "updated_at": "2020-01-01"}

    answer = send("PUT", f"/{project['id']}", json=ignored)

    assert (answer.status, answer.json()["project"]) == (200, project)
    assert stored() == before


def test_the_list_has_own_projects_only_newest_first_with_the_numbers_of_their_tasks(world, send, user):
    at = "2026-11-2{}T09:00:00+00:00".format
    old, new = (world.database.add_project(user, repo_name=str(day), created_at=at(day)) for day in (1, 3))
    between = world.database.add_project(user, repo_name="2", created_at=at(2))
    world.database.add_project(world.new_user())
    for status in ("pending", "running", "completed", "failed", "cancelled"):
        world.database.add_task(user, project_id=old, status=status)

    rows = send("GET").json()["projects"]

    assert [row["id"] for row in rows] == [new, between, old]
    assert all(row.keys() == KEYS for row in rows)
    assert (rows[2]["task_count"], rows[2]["completed_tasks"], rows[2]["active_tasks"]) == (5, 1, 2)


def test_nobody_without_projects_gets_an_error(send):
    assert send("GET").json() == {"status": "success", "projects": []}


def test_a_list_too_large_for_lambda_comes_without_settings(world, send, user):
    for number in range(25):
        world.database.add_project(user, repo_name=str(number), settings={"x": "y" * MAX_SETTINGS_BYTES})
    body = send("GET").json()

    assert (body["omitted"], len(body["projects"])) == (["settings"], 25)
    assert all(row["settings"] == {} and row["repo_name"] for row in body["projects"])


def test_a_row_too_large_for_lambda_is_a_clear_error(world, send, user):
    project_id = world.database.add_project(user, description="x" * MAX_BYTES)

    for path in ("", f"/{project_id}"):
        answer = send("GET", path)
        assert (answer.status, answer.json()["code"]) == (413, "too_large")


def test_a_deleted_project_is_gone_with_its_tasks(world, send, user, project):
    inside = world.database.add_task(user, project_id=project["id"])
    outside = world.database.add_task(user)

    answer = send("DELETE", f"/{project['id']}")

    assert answer.json() == {"status": "success", "message": "Project deleted successfully"}
    assert refusal(send("DELETE", f"/{project['id']}")) == (404, "Project not found")
    assert inside not in world.database.tasks
    assert outside in world.database.tasks


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_another_users_project_looks_absent_and_stays(world, send, stored, method):
    foreign = world.database.add_project(world.new_user())
    before = stored()

    for project_id in (foreign, *NO_SUCH_ID):
        answer = send(method, f"/{project_id}", json={"name": "Mine", "repo_url": URL})
        assert (answer.status, answer.json()) == (404, {"error": "Project not found", "code": "not_found"})
    assert stored() == before


@pytest.mark.parametrize("project_id", ["abc", "-1", "1.5", "1e3", "%D9%A1", ""])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_an_id_that_is_no_number_is_no_route_with_or_without_a_token(send, as_user, method, project_id):
    for headers in (as_user, {}):
        assert refusal(send(method, f"/{project_id}", headers=headers, json={"name": "x"})) == (404, "Not found")


def test_leading_zeros_are_no_part_of_an_id(send, project):
    assert send("GET", f"/00{project['id']}").json()["project"] == project


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("POST", ""), ("GET", "/1"), ("PUT", "/1"), ("DELETE", "/1")]
)
def test_every_route_wants_a_token_before_it_looks_at_the_body(send, method, path):
    assert refusal(send(method, path, headers={}, content=b"{bad")) == (401, "Missing authorization header")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "", {"GET", "POST"}),
        ("PATCH", "/1", {"GET", "PUT", "DELETE"}),
        ("POST", "/1", {"GET", "PUT", "DELETE"}),
    ],
)
def test_other_methods_are_not_allowed_and_the_answer_names_those_that_are(send, as_user, method, path, allowed):
    for headers in (as_user, {}):
        answer = send(method, path, headers=headers, json={"name": "x"})
        assert refusal(answer) == (405, "Method not allowed")
        assert set(answer.headers["allow"].split(", ")) == allowed
