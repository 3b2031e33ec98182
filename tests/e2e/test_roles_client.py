"""Roles as processes and a client that is not ours: Google's Python client publishes events straight to the topic and
reads what was decided; requests come by push, with the token of a service account; each infer has models of its own."""

import base64
import collections
import json
import subprocess
import time

import cloud
import harness
import pubsub

ACCOUNT, AUDIENCE = "pusher@t.iam.gserviceaccount.com", "https://infer.example"
ACTION = """
actions:
  welcome:
    mode: on
    when: counter.score = 2
    deliver:
      pubsub: {template: welcome, title: "10% オフ"}
      valid_for: 20m
"""
OTHER = """  doubler:
    trigger: viewing
    path: models/doubler
    features: features/doubler.sql
    valid_for: 1h
"""
BACKENDS = "backends: {bus: pubsub}\n"


def view(event_id, user):
    return json.dumps({"event_id": event_id, "user_id": user, "name": "view"})


def roles(project, tmp, names, more=None):
    """A deployment of `names`; `more`: arguments of one of them."""
    def server(directory, data, env, args):
        return harness.Server(directory, data, env=env, args=[*args, *(more or {}).get(data.name, [])])

    return cloud.Deployment(project, tmp, roles=names, clock="wall", server=server)


def wait_for_scores(deployment, scores, model="counter"):
    """Until `serve` gives these latest scores, by user."""
    def found():
        return {user: prediction["score"] for user in scores
                for prediction in deployment["serve"].get(f"/v1/users/{user}/predictions").json()["predictions"]
                if prediction["model"] == model}

    deployment.wait(lambda: found() == scores, 30, f"{model}'s {scores}")


# ---- events in, actions out -----------------------------------------------------------------------------------------

def test_googles_client_publishes_events_and_reads_the_actions(tmp_path):
    cloud.need_emulators()
    client = pubsub.Client("none")  # skips where it is absent
    project = harness.write_project(tmp_path / "shop", yaml=BACKENDS + harness.YAML + ACTION)
    with roles(project, tmp_path, ("process", "infer", "serve")) as deployment:
        client.gcp_project = deployment.gcp_project
        client.create_subscription("kizashi-testshop-actions", "mine")
        requests = cloud.Tape(deployment.pubsub, "kizashi-testshop-requests", echo=True)  # infer gets each twice
        lines = "\n".join([view("e1", "ada"), view("e2", "ada"), view("e3", "bob")])
        sent = [{"data": lines, "key": "crm-1", "attributes": {"source": "crm"}},
                {"data": view("e4", "bob"), "key": "crm-1"}]
        client.publish("kizashi-testshop-events", sent)
        wait_for_scores(deployment, {"ada": 2.0, "bob": 2.0})
        # The publisher tries again: other messages with the same events. What comes behind them has seen them taken.
        client.publish("kizashi-testshop-events", sent)
        client.publish("kizashi-testshop-events", [{"data": view("e5", "eve") + "\n" + view("e6", "eve"), "key": "crm-1"}])
        wait_for_scores(deployment, {"ada": 2.0, "bob": 2.0, "eve": 2.0})
        deployment.wait(lambda: deployment.metric("infer", "role_infer_requests_total") >= 12, 30, "requests, repeated")
        requests.stop()

        came = client.pull("mine", 3)
        while {json.loads(m["data"])["user_id"] for m in came} != {"ada", "bob", "eve"}:
            came += client.pull("mine", 1)
        # At least once, as promised: whatever came again is the same under the same key.
        came += [{"data": m.data.decode(), "attributes": m.attributes} for m in deployment.pubsub.pull("mine")]
        by_key = collections.defaultdict(set)
        for message in came:
            assert set(message["attributes"]) == {"action", "project", "idempotency-key"}
            assert message["attributes"]["action"] == "welcome" and message["attributes"]["project"] == "testshop"
            by_key[message["attributes"]["idempotency-key"]].add(message["data"])
        assert all(key.startswith("kz-testshop-") and len(bodies) == 1 for key, bodies in by_key.items()), by_key
        actions = {(body["user_id"], body["event_id"]): body for (text,) in by_key.values() for body in [json.loads(text)]}
        assert len(by_key) == 3 and set(actions) == {("ada", "e2"), ("bob", "e4"), ("eve", "e6")}
        for body in actions.values():
            assert (body["action"], body["model"]) == ("welcome", "counter")
            assert body["payload"] == {"template": "welcome", "title": "10% オフ"}
            assert body["expires_at"] - body["decided_at"] == 20 * 60000
            assert abs(body["decided_at"] - time.time() * 1000) < 600000
        assert len(deployment.news.by_request()) == 6  # and none came about twice


# ---- requests by push -----------------------------------------------------------------------------------------------

def test_pubsub_pushes_requests_to_infer(tmp_path):
    """The emulator's own push subscription: it brings a request until it is answered 204."""
    cloud.need_emulators()
    client = pubsub.Client("none")
    project = harness.write_project(tmp_path / "shop")
    with roles(project, tmp_path, ("process", "infer", "serve"), {"infer": ["--push"]}) as deployment:
        client.gcp_project = deployment.gcp_project
        deployment.pubsub.call("PUT", "subscriptions/pushed", {
            "topic": deployment.pubsub.topic("kizashi-testshop-requests"),
            "pushConfig": {"pushEndpoint": f"http://127.0.0.1:{deployment['infer'].port}/v1/pubsub/push"}})
        client.publish("kizashi-testshop-events", [{"data": view("e1", "ada") + "\n" + view("e2", "bob")}])
        wait_for_scores(deployment, {"ada": 1.0, "bob": 1.0})


class Signer:
    """Tokens as Google signs them, and the key set that says so."""

    def __init__(self, path):
        self.path = path
        subprocess.run(["openssl", "genrsa", "-out", path, "2048"], check=True, capture_output=True)

    def keys(self):
        said = subprocess.run(["openssl", "rsa", "-in", self.path, "-noout", "-modulus"], check=True, capture_output=True)
        modulus = bytes.fromhex(said.stdout.decode().split("=")[1])
        return {"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "k1", "n": self._text(modulus), "e": "AQAB"}]}

    @staticmethod
    def _text(data):
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    def token(self, **claims):
        now = int(time.time())
        claims = {"iss": "https://accounts.google.com", "aud": AUDIENCE, "email": ACCOUNT, "email_verified": True,
                  "iat": now, "exp": now + 3600, **claims}
        text = ".".join(self._text(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "k1"}, claims))
        signed = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.path], input=text.encode(), check=True,
                                capture_output=True)
        return f"{text}.{self._text(signed.stdout)}"


def test_a_push_to_infer_needs_the_account_s_token_and_works_once(tmp_path):
    cloud.need_emulators()
    client = pubsub.Client("none")
    google, stranger = Signer(tmp_path / "google.pem"), Signer(tmp_path / "stranger.pem")
    (tmp_path / "keys.json").write_text(json.dumps(google.keys()))
    push = f"{{audience: '{AUDIENCE}', email: {ACCOUNT}, jwks: {tmp_path / 'keys.json'}}}"
    project = harness.write_project(
        tmp_path / "shop", yaml=f"backends: {{bus: pubsub, gcp: {{push: {push}}}}}\n" + harness.YAML + ACTION)
    with roles(project, tmp_path, ("process", "infer", "serve"), {"infer": ["--push"]}) as deployment:
        client.gcp_project = deployment.gcp_project
        deployment.pubsub.subscribe("asked", "kizashi-testshop-requests")
        deployment.pubsub.subscribe("decided", "kizashi-testshop-actions")
        client.publish("kizashi-testshop-events", [{"data": view("e1", "ada") + "\n" + view("e2", "ada")}])
        requests = []
        deployment.wait(lambda: requests.extend(deployment.pubsub.pull("asked")) or len(requests) == 2, 30, "two requests")

        def post(data, token=None):
            envelope = {"message": {"data": base64.b64encode(data).decode(), "messageId": "1"}, "subscription": "s"}
            return deployment["infer"].post("/v1/pubsub/push", envelope, headers={
                "Authorization": f"Bearer {token}"} if token else {}).status

        good, first = google.token(), requests[0].data
        deployment.wait(lambda: post(b"no request", good) == 204, 20, "keys")  # 503 until they are read
        now = int(time.time())
        refused = {401: (None, "abc", stranger.token(), google.token(iat=now - 7200, exp=now - 3600)),
                   403: (google.token(aud="https://other.example"), google.token(email="eve@t.iam.gserviceaccount.com"))}
        for status, tokens in refused.items():
            assert [post(first, token) for token in tokens] == [status] * len(tokens)
        assert deployment["infer"].post("/v1/pubsub/push", {"no": "envelope"},
                                        headers={"Authorization": f"Bearer {good}"}).status == 400
        assert not deployment.news.results
        for _ in range(3):
            assert [post(request.data, good) for request in requests] == [204, 204]
        wait_for_scores(deployment, {"ada": 2.0})
        deployment.wait(lambda: len(deployment.news.results) >= 2, 20, "news of them")
        assert {key[1] for key in deployment.news.by_request()} == {"e1", "e2"}  # fails where one came about twice
        keys = {action.attributes["idempotency-key"] for action in deployment.pubsub.pull("decided")}
        assert len(keys) == 1
        dead = deployment.pubsub.pull("kizashi-testshop-dead-kept")
        assert [(letter.data, letter.attributes["code"]) for letter in dead[:1]] == [(b"no request", "bad_request")]


# ---- one model each -------------------------------------------------------------------------------------------------

def test_each_infer_answers_for_its_own_model(tmp_path):
    cloud.need_emulators()
    client = pubsub.Client("none")
    project = harness.write_project(tmp_path / "shop", yaml=harness.YAML + OTHER)
    harness.write_project(project, yaml=harness.YAML + OTHER, name="doubler",
                          model=harness.MODEL.replace("float(row[views])", "2 * float(row[views])"))
    only = {"infer-1": ["--model", "counter"], "infer-2": ["--model", "doubler"]}
    with roles(project, tmp_path, ("process", "infer-1", "infer-2", "serve"), only) as deployment:
        client.gcp_project = deployment.gcp_project
        client.publish("kizashi-testshop-events", [{"data": "\n".join(view(f"e{i}", f"u{i % 3}") for i in range(9))}])
        users = ("u0", "u1", "u2")
        wait_for_scores(deployment, dict.fromkeys(users, 3.0))
        wait_for_scores(deployment, dict.fromkeys(users, 6.0), "doubler")
        for role, model in (("infer-1", "counter"), ("infer-2", "doubler")):
            deployment.wait(lambda role=role: deployment.metric(role, "role_infer_requests_total") >= 9, 20, "all of them")
            assert deployment.metric(role, "role_infer_requests_total") == 9
            done = [line for line in deployment[role].get("/metrics").body.decode().splitlines()
                    if line.startswith("kizashi_model_done_total{") and not line.endswith(" 0")]
            assert done == [f'kizashi_model_done_total{{model="{model}"}} 9'], (role, done)


# ---- waiting at collect ---------------------------------------------------------------------------------------------

def test_who_waits_at_collect_hears_of_predictions_and_of_what_was_not_asked(tmp_path):
    cloud.need_emulators()
    project = harness.write_project(tmp_path / "shop", yaml=BACKENDS + harness.YAML)
    with roles(project, tmp_path, ("collect", "process", "infer", "serve")) as deployment:
        def told(name, number):
            answer = deployment["collect"].send({"event_id": f"e{number}", "user_id": "ada", "name": name},
                                                query="?wait=counter&timeout_ms=10000")
            return [row["score"] for row in answer["predictions"]], [row["reason"] for row in answer["pending"]]

        assert told("view", 1) == ([1.0], [])  # the first opens the subscription
        assert told("login", 2) == ([], ["not_triggered"])
        assert told("view", 3) == ([2.0], [])
        assert told("view", 3) == ([], ["not_triggered"])  # it was there
