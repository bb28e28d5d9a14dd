"""Tasks over HTTP."""

from __future__ import annotations

from studios import Studio


def test_tasks_are_listed_looked_at_and_forgotten(studio: Studio) -> None:
    task = studio.upload("a.jsonl", b'{"text": "the cat"}\n')
    assert task["result"]["version"] == 1
    (listed,) = studio.get("tasks")
    assert (listed["id"], listed["status"], listed["verb"]) == (task["id"], "done", "import")
    assert "result" not in listed
    assert studio.http.delete(f"/studio/api/tasks/{task['id']}").status_code == 200
    assert studio.get("tasks") == []
    assert studio.refusal("GET", f"tasks/{task['id']}")["message"] == "there is no such task"
    assert studio.refusal("POST", "tasks/../stop")["code"] == "Unexpected"
