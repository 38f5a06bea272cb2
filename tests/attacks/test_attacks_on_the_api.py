"""Every operation of the API, with every id of somebody else's, and every trick to be taken for somebody else."""

import base64
import itertools
import json
import time
from urllib.parse import urlencode

import jwt
import pytest

# Bodies that would do something, had the caller the right: they name the victim wherever a body can name anybody.
BODIES = {
    "issueTokens": lambda v: {"user_id": v.id},
    "refreshToken": lambda v: {"refresh_token": v.id},
    "createApiKey": lambda v: {"name": "n", "user_id": v.id},
    "updateProfile": lambda v: (
        {"full_name": "n", "id": v.id, "user_id": v.id, "is_test_user": True, "github_token": "t"}
    ),
    "createProject": lambda v: {"name": "n", "repo_url": "https://github.com/o/n", "user_id": v.id, "id": v.project_id},
    "updateProject": lambda v: {"name": "n", "user_id": v.id, "id": v.project_id},
    "startTask": lambda v: {
        "prompt": "p", "repo_url": "https://github.com/o/r", "github_token": "t", "project_id": v.project_id,
        "user_id": v.id,
    },
    "retryTask": lambda v: {"github_token": "t", "user_id": v.id},
    "createFollowUp": lambda v: {"prompt": "p", "github_token": "t", "user_id": v.id},
    "addChatMessage": lambda v: {"content": "c", "user_id": v.id},
    "validateGithubToken": lambda v: {"github_token": "t", "repo_url": "https://github.com/o/r"},
    "createPullRequest": lambda v: {"github_token": "t"},
    "createTestUser": lambda v: {"user_id": v.id, "metadata": {"user_id": v.id}},
}  # fmt: skip
# What stands in a path, and what of the victim's it can name.
PARAMETERS = {
    "task_id": lambda v: v.task_ids.values(),
    "project_id": lambda v: [v.project_id],
    "key_id": lambda v: [v.api_key_id],
    "user_id": lambda v: [v.id],
}
# What a query must name for an operation to look at anything, beside its path.
QUERIES = {"getTaskFile": lambda v: {"path": v.word}}
NOBODYS = {"task_id": 987654321, "project_id": 987654321, "key_id": "0" * 8 + "-0000-4000-8000-" + "0" * 12}
# Routes for whoever asks, which prove nothing about anybody.
OPEN = {"getApiInfo", "ping"}


def operations(stage):
    """Method, path and description of all that the API can be asked."""
    for path, methods in stage.app.openapi()["paths"].items():
        for method, described in methods.items():
            yield method.upper(), path, described


def requests(stage, whose):
    """Every operation with every id of `whose` that fits its path: method, path, body."""
    for method, path, described in operations(stage):
        name = described["operationId"]
        assert ("requestBody" in described) <= (name in BODIES), f"say in BODIES what {name} is sent"
        body = BODIES[name](whose) if name in BODIES else None
        parameters = [p["name"] for p in described.get("parameters", []) if p["in"] == "path"]
        assert set(parameters) <= set(PARAMETERS), f"say in PARAMETERS what {parameters} can name"
        for value in PARAMETERS[parameters[0]](whose) if parameters else [None]:
            yield method, path.format(**dict.fromkeys(parameters, value)) + query(described, whose), body


def query(described, whose):
    """What an operation must be asked for beside its path."""
    needed = [p["name"] for p in described.get("parameters", []) if p["in"] == "query" and p["required"]]
    named = QUERIES.get(described["operationId"], lambda _: {})(whose)
    assert set(needed) <= named.keys(), f"say in QUERIES what {described['operationId']} is asked for"
    return f"?{urlencode(named)}" if named else ""


def named(stage, path):
    """Whether a path names somebody's things, as `whose` has filled it in."""
    return any(str(value) in path for value in stage.victim.ids)


def test_every_operation_refuses_somebody_elses_ids(stage):
    bearer = stage.token(stage.attacker)

    answers = {
        (method, path): stage.ask(method, path, json=body, bearer=bearer).status
        for method, path, body in requests(stage, stage.victim)
        if named(stage, path)
    }

    assert len(answers) > 20
    assert set(answers.values()) == {404}, answers


def test_somebody_elses_and_nobodys_look_the_same(stage):
    bearer, victim = stage.token(stage.attacker), stage.victim
    for method, path, described in operations(stage):
        parameters = [p["name"] for p in described.get("parameters", []) if p["in"] == "path"]
        if not set(parameters) & set(NOBODYS):
            continue
        body = BODIES.get(described["operationId"], lambda _: None)(victim)
        path += query(described, victim)
        nobodys = stage.ask(method, path.format(**NOBODYS), json=body, bearer=bearer)
        for value in PARAMETERS[parameters[0]](victim):
            theirs = stage.ask(method, path.format(**{parameters[0]: value}), json=body, bearer=bearer)
            assert (theirs.status, theirs.body) == (nobodys.status, nobodys.body), (method, path)


def test_lists_and_bodies_show_and_reach_only_what_is_the_callers(stage):
    bearer = stage.token(stage.attacker)
    for method, path, body in requests(stage, stage.victim):
        if not named(stage, path):
            stage.ask(method, path, json=body, bearer=bearer)


def _header_tricks(stage):
    victim, own = stage.victim.id, stage.token(stage.attacker)
    theirs = f"Bearer {stage.token(stage.victim)[:-5]}AAAAA"  # a signature that is almost right
    yield {"Authorization": f"Bearer {own}", "X-User-ID": victim}
    yield {"Authorization": f"Bearer {own}", "X-Forwarded-User": victim, "X-Auth-Request-User": victim}
    yield {"Authorization": f"Bearer {own}", "X-Supabase-User": victim, "X-Hasura-User-Id": victim, "sub": victim}
    yield {"Authorization": f"Bearer {own}", "X-Original-Authorization": theirs, "Proxy-Authorization": theirs}
    yield {"Authorization": f"Bearer {own}", "apikey": stage.gateway.publishable_key, "role": "service_role"}
    yield {"Authorization": f"Bearer {own}", "Accept-Profile": "auth", "Content-Profile": "auth", "Prefer": "tx=commit"}
    yield {"Authorization": f"Bearer {own}", "Cookie": f"user_id={victim}; sb-access-token={victim}"}
    yield {"Authorization": f"Bearer {own}", "X-HTTP-Method-Override": "DELETE", "X-HTTP-Method": "DELETE"}
    yield {"Authorization": f"Bearer {own}", "X-Original-URL": "/api/me", "X-Rewrite-URL": "/api/me"}
    yield {"Authorization": f"Bearer {own}", "X-Test-Users-Secret": "", "X-Forwarded-For": "127.0.0.1"}


def test_no_header_makes_somebody_else_of_the_caller(stage):
    for headers in _header_tricks(stage):
        for method, path, body in requests(stage, stage.victim):
            status = stage.ask(method, path, json=body, headers=headers).status
            assert not named(stage, path) or status == 404, (method, path, headers)


def _unsigned(claims, header):
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims))
    return ".".join(parts) + "."


def _forged_tokens(stage):
    victim, secret = stage.victim, stage.gateway.jwt_secret
    claims = stage.claims(victim)
    own, true = stage.token(stage.attacker), stage.token(victim)
    yield "another secret", jwt.encode(claims, "x" * 40, "HS256")
    yield "the publishable key as secret", jwt.encode(claims, stage.gateway.publishable_key.ljust(32, "x"), "HS256")
    yield "an empty secret", _unsigned(claims, {"alg": "HS256", "typ": "JWT"})
    for algorithm in ("none", "None", "NONE", "nOnE", ""):
        yield f"algorithm {algorithm!r}", _unsigned(claims, {"alg": algorithm, "typ": "JWT"})
    header, _, signature = own.split(".")
    yield "the victim's claims under one's own signature", f"{header}.{true.split('.')[1]}.{signature}"
    yield "a true token without signature", true.rpartition(".")[0] + "."
    yield "a refresh token", jwt.encode(stage.claims(victim, type="refresh"), secret, "HS256")
    yield "long expired", jwt.encode(stage.claims(victim, exp=int(time.time()) - 3600), secret, "HS256")
    yield "no expiry", jwt.encode({k: v for k, v in claims.items() if k != "exp"}, secret, "HS256")
    yield "two users", jwt.encode(claims | {"sub": stage.attacker.id}, secret, "HS256")
    yield "another audience", jwt.encode(claims | {"aud": "anon"}, secret, "HS256")
    yield "the service's role", jwt.encode(claims | {"role": "service_role"}, secret, "HS256")
    yield "nobody's role", jwt.encode(claims | {"role": "anon"}, secret, "HS256")
    yield "another issuer's", jwt.encode(
        {k: v for k, v in claims.items() if k not in {"type", "user_id"}} | {"iss": "https://evil.example/auth/v1"},
        secret, "HS256",
    )  # fmt: skip
    yield "the publishable key", stage.gateway.publishable_key
    yield "an API key's id", f"ac_{victim.api_key_id}"
    yield "an API key's word", victim.word
    yield "an API key that nobody has", "ac_" + "A" * 43
    yield "a user's id", victim.id


def test_no_forged_token_opens_anything(stage):
    for trick, token in _forged_tokens(stage):
        for method, path, body in requests(stage, stage.victim):
            if path in {"/", "/ping"} or path.startswith(("/api/auth/", "/api/test-users")):
                continue
            answer = stage.ask(method, path, json=body, bearer=token)
            assert answer.status == 401, (trick, method, path, answer.text)


@pytest.mark.parametrize("proof", ["nothing", "one's own token", "a forged one", "one's own, in the body"])
def test_nobody_exchanges_an_id_for_its_owners_tokens(stage, proof):
    own = jwt.encode(
        {k: v for k, v in stage.claims(stage.attacker).items() if k not in {"type", "user_id"}}
        | {"iss": f"{stage.gateway.url}/auth/v1"},
        stage.gateway.jwt_secret, "HS256",
    )  # fmt: skip
    forged = dict(_forged_tokens(stage))["another secret"]
    bearer = {"one's own token": own, "a forged one": forged}.get(proof)
    body = {"user_id": stage.victim.id} | ({"access_token": own} if proof == "one's own, in the body" else {})

    for path in ("/api/auth/token", "//api/auth/token", "/api/auth/token?user_id=" + stage.victim.id):
        assert stage.ask("POST", path, json=body, bearer=bearer).status in {308, 401}


@pytest.mark.parametrize("separator", [", ", ",", " "])
def test_two_tokens_in_one_header_are_no_token(stage, separator):
    own = stage.token(stage.attacker)
    for other in (stage.victim.id, dict(_forged_tokens(stage))["another secret"]):
        header = {"Authorization": f"Bearer {own}{separator}Bearer {other}"}
        assert stage.ask("GET", "/api/tasks", headers=header).status == 401


TASK_PATHS = (
    *("/api/tasks/{}", "/api/task-status/{}", "/api/git-diff/{}", "/api/tasks/{}/events"),
    *("/api/tasks/{}/files", "/api/tasks/{}/files/content?path=x", "/api/tasks/{}/patch"),
)
PROJECT_PATHS = ("/api/projects/{}", "/api/projects/{}/tasks")


def _odd_spellings(stage, number):
    yield from (f"{number}%20or%201=1", f"{number},{number}", f"in.({number})", f"eq.{number}", f"{number}%00")
    yield from (f"{number};select", f"{number}%2F..", f"{number}.0", f"+{number}", f"%20{number}", f"{number}%0A")
    yield from (f"00{number}", f"{number}?user_id=eq.{stage.victim.id}", f"{number}?select=*&or=(id.gt.0)")
    yield from ("*", "%2A", "..", "%2e%2e", "null", "-1", "0", "9" * 40, "%F0%9F%98%80", "%D9%A1", "1e3", "0x1")


def test_no_spelling_of_an_id_finds_somebody_elses(stage):
    bearer, victim = stage.token(stage.attacker), stage.victim
    for paths, number in ((TASK_PATHS, victim.task_ids["completed"]), (PROJECT_PATHS, victim.project_id)):
        for path, odd in itertools.product(paths, _odd_spellings(stage, number)):
            assert stage.ask("GET", path.format(odd), bearer=bearer).status in {400, 404}, (path, odd)
    for odd in _odd_spellings(stage, victim.project_id):
        assert stage.ask("DELETE", f"/api/projects/{odd}", bearer=bearer).status in {400, 404, 405}


def test_no_filter_of_a_list_reaches_beyond_the_callers_own(stage):
    bearer, victim = stage.token(stage.attacker), stage.victim
    cursor = base64.urlsafe_b64encode(f"2099-01-01T00:00:00+00:00|{2**62}".encode()).decode()
    for query in (
        f"project_id={victim.project_id}", f"q={victim.word[:12]}", "q=%25", "q=*", "q=_", "q=.*", "q='",
        "q=%27%20or%20true--", "status=completed", f"cursor={cursor}", "limit=1000", "select=*", f"id=eq.{victim.id}",
        f"user_id={victim.id}", f"user_id=eq.{victim.id}", f"or=(user_id.eq.{victim.id})", f"owner_id={victim.id}",
        f"project_id={victim.project_id}%20or%20true", f"status=completed&user_id=eq.{victim.id}",
    ):  # fmt: skip
        for path in ("/api/tasks", f"/api/projects/{stage.attacker.project_id}/tasks", "/api/projects", "/api/me",
                     "/api/api-keys"):  # fmt: skip
            stage.ask("GET", f"{path}?{query}", bearer=bearer)


def test_nobody_puts_a_task_into_somebody_elses_project(stage):
    body = BODIES["startTask"](stage.victim)
    for project_id in (stage.victim.project_id, str(stage.victim.project_id), float(stage.victim.project_id)):
        answer = stage.ask(
            "POST", "/api/start-task", json=body | {"project_id": project_id}, bearer=stage.token(stage.attacker)
        )
        assert answer.status in {400, 404}
