"""Models: predictions, read-your-own-event, and every way a model can go wrong."""

import threading
import time

import harness


def view(number, user="u1", **props):
    return {"event_id": f"e{number}", "user_id": user, "name": "view", "props": props}


def test_the_answer_holds_the_prediction_and_the_model_sees_its_event(server):
    for number in range(1, 4):
        told = server.send(view(number), query="?wait=counter&timeout_ms=5000")
        assert [p["score"] for p in told["predictions"]] == [float(number)], told
        assert told["predictions"][0]["event_id"] == f"e{number}"
    kept = server.get("/v1/users/u1/predictions").json()["predictions"]
    assert len(kept) == 1 and kept[0]["score"] == 3.0 and kept[0]["model"] == "counter"
    assert kept[0]["expires_at"] - kept[0]["computed_at"] == 3600000


def test_waiting_for_what_is_not_triggered_says_so(server):
    told = server.send({"user_id": "u1", "name": "other"}, query="?wait=counter&timeout_ms=3000")
    assert told["pending"] == [{"model": "counter", "reason": "not_triggered"}]


def test_predictions_survive_kill_minus_nine(server):
    server.send(view(1), view(2), query="?wait=counter&timeout_ms=5000")
    before = server.get("/v1/users/u1/predictions").json()
    server.kill()
    server.start()
    assert server.get("/v1/users/u1/predictions").json() == before


RAISER = """
import kizashi, os, time, sys


class Raiser(kizashi.Model):
    def predict(self, batch):
        out = []
        for i in range(len(batch)):
            user = batch.user_ids[i]
            if user == "raise":
                raise ValueError("no good")
            if user == "nan":
                out.append(float("nan"))
            elif user == "hang":
                time.sleep(60)
            elif user == "exit":
                os._exit(3)
            elif user == "shape":
                return [[1.0, 2.0]] * 999
            else:
                out.append(1.0)
        return out
"""


def test_only_the_row_at_fault_is_dead_lettered(start):
    server = start(model=RAISER, yaml=harness.YAML.replace("timeout: 20s", "timeout: 2s"))
    bad = ["raise", "nan", "hang", "exit", "shape"]
    users = [f"good{n}" for n in range(20)] + bad
    server.send(*[view(n, user) for n, user in enumerate(users)])
    server.wait(lambda: b"\nkizashi_requests_pending 0\n" in server.get("/metrics").body, 60, "the last result")
    for user in users:
        kept = server.get(f"/v1/users/{user}/predictions").json()["predictions"]
        assert [p["score"] for p in kept] == ([] if user in bad else [1.0]), user
    letters = {r["ref"]: r for r in harness.dump(server.data, "--type", "deadletter")}
    results = {r["request"]: r for r in harness.dump(server.data, "--type", "result")}
    reasons = {results[ref]["user_id"]: letter for ref, letter in letters.items()}
    assert set(reasons) == set(bad)
    assert "no good" in reasons["raise"]["reason"] and "model.py" in reasons["raise"]["reason"]
    assert reasons["hang"]["code"] == "timeout" and reasons["nan"]["code"] == "nan"
    # The platform goes on.
    assert server.send(view(100, "later"), query="?wait=counter&timeout_ms=5000")["predictions"][0]["score"] == 1.0


def test_a_model_that_does_not_load_is_fenced_and_says_so(start, tmp_path):
    server = start(model="import kizashi\nimport no_such_module_anywhere\n")
    server.send(view(1))
    status = server.wait(lambda: next((m for m in server.get("/v1/admin/status").json()["models"] if m["state"] == "fenced"), None), 60,
                         "the fence")
    assert status["reason"] == "load: the model did not load: ModuleNotFoundError: No module named 'no_such_module_anywhere' (model.py:2)"
    ready = server.get("/readyz")
    assert ready.status == 200 and ready.json()["degraded"] == ["counter"]
    # Mended on disk and unfenced: the pending request is answered, nothing was lost.
    harness.write_project(server.project)
    harness.run("models", "unfence", "counter", "--url", f"http://127.0.0.1:{server.port}", check=0)
    server.wait(lambda: server.get("/v1/users/u1/predictions").json()["predictions"], 30, "the prediction")
    # It was said to be no longer fenced before it had answered anything.
    said = [what for line in server.read_log().splitlines() for what in ("fenced model is tried again", "model no longer fenced") if what in line]
    assert said == ["fenced model is tried again", "model no longer fenced"], server.read_log()[-2000:]


RAW = """
import kizashi


class Raw(kizashi.Model):
    def predict(self, batch):
        return [float(len(batch.history(i))) for i in range(len(batch))]
"""


def test_a_model_without_features_gets_the_raw_history(start):
    yaml = harness.YAML.replace("    features: features/counter.sql\n", "")
    server = start(model=RAW, yaml=yaml)
    for number in range(1, 4):
        told = server.send(view(number), query="?wait=counter&timeout_ms=5000")
        assert told["predictions"][0]["score"] == float(number)


CLASSES = """
import kizashi


class Classes(kizashi.Model):
    def predict(self, batch):
        return [[0.2, 0.3, 0.5] for _ in range(len(batch))]
"""


def test_several_outputs_with_names(start):
    yaml = harness.YAML.replace("    valid_for: 1h\n", "    valid_for: 1h\n    output: {classes: [stay, browse, buy]}\n")
    server = start(model=CLASSES, yaml=yaml)
    told = server.send(view(1), query="?wait=counter&timeout_ms=5000")
    assert "0.5" in str(told["predictions"][0]["output"]) and "buy" in str(told["predictions"][0]["output"])


def test_pause_keeps_requests_and_resume_answers_them(server):
    url = f"http://127.0.0.1:{server.port}"
    harness.run("models", "pause", "counter", "--url", url, check=0)
    told = server.send(view(1), query="?wait=counter&timeout_ms=300")
    assert told["accepted"] == 1 and not told["predictions"], told
    assert server.get("/v1/users/u1/predictions").json()["predictions"] == []
    harness.run("models", "resume", "counter", "--url", url, check=0)
    server.wait(lambda: server.get("/v1/users/u1/predictions").json()["predictions"], 10, "the prediction")


def test_dropped_requests_end_and_are_counted(server):
    url = f"http://127.0.0.1:{server.port}"
    harness.run("models", "pause", "counter", "--url", url, check=0)
    server.send(*[view(n) for n in range(5)])
    harness.run("requests", "drop", "--model", "counter", "--url", url, check=0)
    ends = [r["end"] for r in harness.dump(server.data, "--type", "result")]
    assert ends == ["dropped"] * 5


def test_a_user_with_many_events_does_not_hold_up_the_others(start):
    yaml = harness.YAML.replace("    valid_for: 1h\n", "    valid_for: 1h\n    history: {window: 7d, max_events: 1000000}\n")
    server = start(yaml=yaml)
    for block in range(20):
        server.send(*[{"event_id": f"x{block}-{n}", "user_id": "heavy", "name": "other"} for n in range(5000)])
    server.send(*[view(n, "heavy") for n in range(20)])
    told = server.send(view(1, "light"), query="?wait=counter&timeout_ms=10000")
    assert told["predictions"][0]["score"] == 1.0
    server.wait(lambda: b"\nkizashi_requests_pending 0\n" in server.get("/metrics").body, 60, "the heavy user's prediction")
    order = [result["user_id"] for result in harness.dump(server.data, "--type", "result")]
    assert order.count("heavy") == 20 and order[-1] == "heavy", order  # who came last was not answered last


HANGER = """
import kizashi, time


class Hanger(kizashi.Model):
    def predict(self, batch):
        time.sleep(1000)
"""


def stop_while_it_hangs(start):
    """Gives how many seconds it took."""
    server = start(model=HANGER, yaml=harness.YAML.replace("timeout: 20s", "timeout: 1000s"))
    told = []
    waiting = threading.Thread(target=lambda: told.append(
        server.send(view(1), query="?wait=counter&timeout_ms=10000")))
    waiting.start()
    server.wait(lambda: harness.dump(server.data, "--type", "request"), 10, "the request")
    began = time.monotonic()
    assert server.stop() == 0
    took_s = time.monotonic() - began
    waiting.join(harness.PATIENCE_S * harness.SLOW)
    assert told[0]["accepted"] == 1 and told[0]["pending"][0]["reason"] in ("stopping", "timeout")
    return took_s


def test_stopping_answers_whoever_waits_for_a_model_that_hangs(start):
    """In the ten seconds that are promised; a busy machine may need more than one try."""
    assert any(stop_while_it_hangs(start) < 10 for _ in range(3))
