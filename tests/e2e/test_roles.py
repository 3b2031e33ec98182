"""Roles in one process, on backends in memory."""

import harness

ALL = ("--role", "collect,process,infer,serve", "--backend", "memory")


def test_all_roles_in_one_process_take_an_event_to_its_prediction(tmp_path):
    project = harness.write_project(tmp_path / "shop")
    with harness.Server(project, data=tmp_path / "data", args=ALL) as server:
        server.send({"event_id": "e1", "user_id": "u1", "name": "view"})
        server.wait(lambda: server.get("/v1/users/u1/predictions").json()["predictions"], 20, "a prediction")
        (prediction,) = server.get("/v1/users/u1/predictions").json()["predictions"]
        assert (prediction["model"], prediction["event_id"]) == ("counter", "e1")
        assert server.stop() == 0


def test_memory_that_not_all_roles_share_is_refused(tmp_path):
    project = harness.write_project(tmp_path / "shop")
    for roles in ("collect", "collect,process,infer"):
        refused = harness.run("up", project, "--role", roles, "--backend", "memory", check=1).stderr.decode()
        assert "in memory" in refused and "--backend gcp" in refused


def test_a_word_that_is_no_role_or_backend_is_named(tmp_path):
    project = harness.write_project(tmp_path / "shop")
    assert '"colect"' in harness.run("up", project, "--role", "colect", check=1).stderr.decode()
    assert '"redis"' in harness.run("up", project, *ALL[:2], "--backend", "redis", check=1).stderr.decode()
    assert "names none" in harness.run("up", project, *ALL[:2], check=1).stderr.decode()
