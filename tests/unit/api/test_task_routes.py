def test_smoke(client, as_user, world, user):
    for m, p in [("GET","/"),("GET","/ping"),("HEAD","/ping"),("POST","/ping"),("GET","/x"),("GET","/api/tasks/abc"),("GET","/api/tasks/"),("GET","/api/tasks"),("GET","/api/tasks/00001"),("GET","/api/tasks/"+"9"*5000),("OPTIONS","/x"),("GET","/docs"),("GET","/openapi.json"), ("GET","/api/tasks/1/events?limit=1001")]:
        r = client.request(m, p, headers=as_user)
        print(m, p[:40], r.status_code, r.text[:300], dict(r.headers))
    r = client.post("/api/start-task", headers=as_user, json=dict(prompt="p", repo_url="https://github.com/o/r", github_token="tok"))
    print(r.status_code, r.text, world.queue.sent)
    assert 0
