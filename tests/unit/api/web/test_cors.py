import pytest

PATTERN = r"https://[a-z0-9-]+\.vercel\.app"


@pytest.fixture
def client(world):
    return world.client(cors_origin_pattern=PATTERN)


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://localhost:3001", "https://foo.vercel.app"])
def test_an_allowed_origin_may_read_the_answer_with_credentials(client, origin):
    headers = client.get("/ping", headers={"Origin": origin}).headers

    assert headers["access-control-allow-origin"] == origin
    assert headers["access-control-allow-credentials"] == "true"
    assert headers["vary"] == "Origin"


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://xvercelyapp.evil.com",
        "https://xvercel.app",
        "https://foo.vercel.app.evil.com",
        "https://evil.com/.vercel.app",
        "http://localhost:3000.evil.com",
        "null",
    ],
)
def test_any_other_origin_may_not(client, origin):
    headers = client.get("/ping", headers={"Origin": origin}).headers

    assert "access-control-allow-origin" not in headers
    assert headers["vary"] == "Origin"  # so that no cache serves this answer to an allowed origin


def test_who_names_no_origin_is_told_the_first_that_is_allowed(client):
    headers = client.get("/ping").headers

    assert headers["access-control-allow-origin"] == "http://localhost:3000"
    assert headers["vary"] == "Origin"


def test_where_no_origin_is_listed_none_is_told(world):
    headers = world.client(cors_origins=()).get("/ping").headers

    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/api/tasks", "/no/such"])
def test_a_preflight_is_answered_for_every_path_without_a_token(client, path):
    asked = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    answer = client.request("OPTIONS", path, headers=asked)

    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert {"POST", "PUT", "DELETE"} <= set(answer.headers["access-control-allow-methods"].split(", "))
    assert {"Authorization", "Content-Type"} <= set(answer.headers["access-control-allow-headers"].split(", "))
    assert answer.headers["access-control-max-age"]


def test_errors_can_be_read_by_the_page_too(client, world, as_user):
    origin = {"Origin": "http://localhost:3000"}
    unauthorised = client.get("/api/tasks", headers=origin)
    del world.database.tasks  # a bug of ours
    broken = client.get("/api/tasks", headers=origin | as_user)

    assert [(a.status, a.headers["access-control-allow-origin"]) for a in (unauthorised, broken)] == [
        (401, origin["Origin"]),
        (500, origin["Origin"]),
    ]
