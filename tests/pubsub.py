"""Google's own Pub/Sub client, google-cloud-pubsub, for tests: a client of another language than ours.

It is installed into an environment below build/, which is kept, and runs there as a process of its
own (this file is that process, too), so that the tests themselves need nothing but the standard
library. Where it cannot be installed the tests are skipped, with CI=true they fail; the same without
PUBSUB_EMULATOR_HOST (tools/with-emulators sets it).

    client = pubsub.Client("my-gcp-project")
    client.publish("kizashi-shop-events", [{"data": '{"user_id":"u1","name":"view"}'}])
    client.create_subscription("kizashi-shop-actions", "mine")
    messages = client.pull("mine", count=1)
    with client.refusing(Publish=6) as host: ...      # Pub/Sub at `host` is short of quota for a while
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time

PACKAGE = "google-cloud-pubsub==2.44.0"


class Client:
    """Topics and subscriptions of one project of Google Cloud, by their ids."""

    def __init__(self, gcp_project):
        import pytest

        import harness

        self.gcp_project = gcp_project
        if not os.environ.get("PUBSUB_EMULATOR_HOST"):
            self._give_up(pytest, "PUBSUB_EMULATOR_HOST is not set")
        self.slow = harness.SLOW
        home = harness.ROOT / "build" / PACKAGE
        self.python = home / "bin" / "python"
        home.parent.mkdir(exist_ok=True)
        with open(f"{home}.lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one of pytest's workers installs it, the others wait
            if not (home / "complete").exists():
                self._install(pytest, home)

    def _install(self, pytest, home):
        made = subprocess.run([sys.executable, "-m", "venv", home], capture_output=True, check=False)
        if made.returncode == 0:
            made = subprocess.run([home / "bin" / "pip", "install", "-q", PACKAGE],
                                  capture_output=True, timeout=300, check=False)
        if made.returncode != 0:
            self._give_up(pytest, f"{PACKAGE} could not be installed: {made.stderr.decode()[-500:]}")
        (home / "complete").touch()

    @staticmethod
    def _give_up(pytest, why):
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)

    def _run(self, command, *args, lines=()):
        done = subprocess.run(
            [self.python, __file__, command, self.gcp_project, *map(str, args)], check=False,
            input="".join(json.dumps(line) + "\n" for line in lines), capture_output=True, text=True,
            timeout=180 * self.slow)
        assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
        return [json.loads(line) for line in done.stdout.splitlines()]

    @contextlib.contextmanager
    def refusing(self, **times):
        """A way to the emulator that answers RESOURCE_EXHAUSTED to the first so many calls of a method.

        The emulator never does, and the service does when it must.
        """
        proxy = subprocess.Popen([self.python, __file__, "proxy", json.dumps(times)],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            yield f"127.0.0.1:{int(proxy.stdout.readline())}"
        finally:
            proxy.stdin.close()  # it ends with it
            proxy.wait(timeout=30 * self.slow)

    def publish(self, topic, messages):
        """`messages`: dicts of data (text), key and attributes, the latter two optional. Gives ids."""
        return self._run("publish", topic, lines=messages)

    def create_subscription(self, topic, subscription):
        self._run("create-subscription", topic, subscription)

    def pull(self, subscription, count, timeout=60):
        """The first `count` messages, acknowledged: dicts of id, data, key, attributes."""
        messages = self._run("pull", subscription, count, timeout * self.slow)
        assert len(messages) == count, f"{len(messages)} of {count} messages came"
        return messages


# ---- below the environment's interpreter ----


def publish(project, topic):
    from google.cloud import pubsub_v1

    publisher = pubsub_v1.PublisherClient(
        publisher_options=pubsub_v1.types.PublisherOptions(enable_message_ordering=True))
    path = publisher.topic_path(project, topic)
    futures = []
    for line in sys.stdin:
        message = json.loads(line)
        futures.append(publisher.publish(path, message.get("data", "").encode(),
                                         ordering_key=message.get("key", ""),
                                         **message.get("attributes", {})))
    for future in futures:
        print(json.dumps(future.result(timeout=60)))


def create_subscription(project, topic, subscription):
    from google.cloud import pubsub_v1

    with pubsub_v1.SubscriberClient() as subscriber:
        subscriber.create_subscription(name=subscriber.subscription_path(project, subscription),
                                       topic=f"projects/{project}/topics/{topic}")


def pull(project, subscription, count, timeout):
    from google.api_core import exceptions
    from google.cloud import pubsub_v1

    with pubsub_v1.SubscriberClient() as subscriber:
        path = subscriber.subscription_path(project, subscription)
        have, deadline = 0, time.monotonic() + float(timeout)
        while have < int(count) and time.monotonic() < deadline:
            try:
                answer = subscriber.pull(subscription=path, max_messages=int(count) - have, timeout=5)
            except exceptions.DeadlineExceeded:
                continue
            for received in answer.received_messages:
                message = received.message
                print(json.dumps({"id": message.message_id, "data": message.data.decode(),
                                  "key": message.ordering_key, "attributes": dict(message.attributes)}))
                have += 1
            if answer.received_messages:
                subscriber.acknowledge(subscription=path,
                                       ack_ids=[r.ack_id for r in answer.received_messages])


def proxy(times):
    import threading
    from concurrent import futures

    import grpc

    left, lock = json.loads(times), threading.Lock()
    channel = grpc.insecure_channel(os.environ["PUBSUB_EMULATOR_HOST"])

    def refuse(method, context):
        name = method.rsplit("/", 1)[1]
        with lock:
            refused = left.get(name, 0) > 0
            left[name] = left.get(name, 0) - 1
        if refused:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "told to refuse")

    class Forward(grpc.GenericRpcHandler):
        def service(self, details):
            method = details.method

            def unary(request, context):
                refuse(method, context)
                try:
                    return channel.unary_unary(method)(request, timeout=context.time_remaining())
                except grpc.RpcError as error:
                    context.abort(error.code(), error.details())

            def stream(requests, context):
                refuse(method, context)
                call = channel.stream_stream(method)(requests)
                context.add_callback(call.cancel)
                try:
                    yield from call
                except grpc.RpcError as error:
                    context.abort(error.code(), error.details())

            if method.endswith("/StreamingPull"):
                return grpc.stream_stream_rpc_method_handler(stream)
            return grpc.unary_unary_rpc_method_handler(unary)

    server = grpc.server(futures.ThreadPoolExecutor(16), handlers=[Forward()])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    {"publish": publish, "create-subscription": create_subscription, "pull": pull,
     "proxy": proxy}[sys.argv[1]](*sys.argv[2:])
