from tests.unit.api.conformance import undescribed


def test_there_is_never_anything_to_migrate(client, as_user):
    for body in ({}, {"content": b"{bad"}, {"json": {"file": "tasks_backup.json"}}):
        answer = client.post("/api/migrate-legacy-tasks", headers=as_user, **body)

        assert (answer.status, undescribed(client, "migrateLegacyTasks", answer)) == (200, [])
        assert answer.json() == {"status": "success", "message": "No legacy tasks file found", "migrated": 0}


def test_it_wants_a_token_all_the_same(client):
    assert client.post("/api/migrate-legacy-tasks").status == 401
