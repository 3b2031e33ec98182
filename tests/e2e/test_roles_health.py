"""What /readyz of roles says while a backend stands still, is away, or is only slow for a moment.

Emulators of the tests' own: a suspended one takes connections and answers nothing, a killed one refuses them."""

import contextlib
import signal
import threading
import time

import cloud
import harness

NOTICED_S = 6  # promised: about 5 s; and what a busy machine takes
ROLES = ("collect", "process", "serve")


class Deployment(cloud.Deployment):
    """The three emulators as its own."""

    def __init__(self, tmp):
        self.own = {name: cloud.Emulator(name, tmp) for name in cloud.EMULATORS}
        super().__init__(harness.write_project(tmp / "shop"), tmp, roles=ROLES, clock="wall", emulators=self.own.values())

    def __exit__(self, *failure):
        with contextlib.suppress(ProcessLookupError):
            for emulator in self.own.values():
                emulator.signal(signal.SIGCONT)
        super().__exit__(*failure)
        for emulator in self.own.values():
            emulator.__exit__()

    def ready(self, role):
        return self[role].get("/readyz", timeout=5).status == 200

    def until(self, role, ready):
        """How many seconds it takes until it says so."""
        began = time.monotonic()
        self.wait(lambda: self.ready(role) == ready, 20, f"{role} {'' if ready else 'not '}ready")
        return time.monotonic() - began

    def ask(self):
        """Something that collect has to publish, and nobody waits for."""
        with contextlib.suppress(OSError, AssertionError):
            self["collect"].post("/v1/events", {"user_id": "u1", "name": "view"}, timeout=0.5)


def test_a_backend_that_is_gone_is_noticed_in_five_seconds_and_so_is_that_it_is_back(tmp_path):
    needs = {"spanner": "process", "bigtable": "serve", "pubsub": "collect"}
    words = {"spanner": "the store", "bigtable": "the predictions' backend", "pubsub": "the bus"}
    with Deployment(tmp_path) as deployment:
        for role in ROLES:
            deployment.until(role, True)
        for backend, role in needs.items():
            deployment.own[backend].signal(signal.SIGSTOP)
            if backend == "pubsub":
                deployment.ask()  # nothing else is asked of it by collect
            took = deployment.until(role, False)
            print(f"{role} without {backend}: {took:.1f} s")
            assert took < NOTICED_S * harness.SLOW
            assert words[backend] in deployment[role].get("/readyz").body.decode()
            problems = deployment[role].get("/v1/admin/status").json()["problems"]
            assert any(words[backend] in problem["what"] for problem in problems), problems
            deployment.own[backend].signal(signal.SIGCONT)
            # Nobody calls a pod that is not ready: it has to find out by itself.
            took = deployment.until(role, True)
            print(f"{role} with {backend} again: {took:.1f} s")
            assert took < 15 * harness.SLOW


def test_a_backend_that_refuses_connections_is_noticed_as_soon(tmp_path):
    with Deployment(tmp_path) as deployment:
        deployment.until("process", True)
        deployment.own["spanner"].kill()
        took = deployment.until("process", False)
        print(f"process with spanner killed: {took:.1f} s")
        assert took < NOTICED_S * harness.SLOW


def test_one_slow_call_makes_nobody_unready(tmp_path):
    with Deployment(tmp_path) as deployment:
        for role in ROLES:
            deployment.until(role, True)
        unready, stop = [], threading.Event()

        def watch():
            while not stop.wait(0.05):
                unready.extend(role for role in ROLES if not deployment.ready(role))

        watcher = threading.Thread(target=watch)
        watcher.start()
        for backend in ("spanner", "bigtable", "pubsub") * 2:
            deployment.own[backend].signal(signal.SIGSTOP)
            deployment.ask()
            time.sleep(2)
            deployment.own[backend].signal(signal.SIGCONT)
            time.sleep(1)
        stop.set()
        watcher.join()
        assert not unready, unready
