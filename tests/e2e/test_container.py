"""The container image: built with buildah, run under podman as an orchestrator would (not root, nothing writable but
its volume and /tmp, no capabilities), and stopped.

Its base cannot be pulled where there is no registry, so a Debian is made with debootstrap; that and the layers stay in
the container storage, and the next build takes what has not changed from there. Needs root and the tools that
tools/install-deps installs; without them it is skipped, in CI it fails."""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import pytest

import cloud
import harness

IMAGE = "localhost/kizashi-test"
# runc, and no more than a sandbox without systemd and with small limits of its own lets one have.
RUN = ["podman", "--cgroup-manager=cgroupfs", "--runtime=runc", "run", "--ulimit=nofile=1024:1024",
       "--ulimit=nproc=1024:1024", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges"]


def missing():
    tools = [tool for tool in ("buildah", "podman", "runc", "debootstrap") if not shutil.which(tool)]
    if tools:
        return f"{', '.join(tools)} not installed"
    return "making a base image needs root" if os.geteuid() else None


@pytest.fixture(scope="module")
def image():
    why = missing()
    if why:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)
    built = subprocess.run([harness.ROOT / "tools" / "make-image", IMAGE], env={**os.environ, "BASE": "bootstrap"},
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600 * harness.SLOW, check=False)
    assert built.returncode == 0, built.stdout.decode(errors="replace")[-4000:]
    return IMAGE


class Container:
    """One that runs in the background until the end of the `with`."""

    def __init__(self, *command, options=()):
        self.name = f"kizashi-test-{os.getpid()}-{time.monotonic_ns()}"
        done = subprocess.run([*RUN, "--detach", "--name", self.name, *options, *command], capture_output=True,
                              timeout=60 * harness.SLOW, check=False)
        assert done.returncode == 0, done.stderr.decode()

    def log(self):
        return subprocess.run(["podman", "logs", self.name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              check=True).stdout.decode(errors="replace")

    def wait_log(self, pattern):
        deadline = time.monotonic() + 60 * harness.SLOW
        while time.monotonic() < deadline:
            found = re.search(pattern, self.log())
            if found:
                return found.group(1)
            time.sleep(0.1)
        raise AssertionError(f"{pattern} did not come: {self.log()[-3000:]}")

    def inside(self, *command):
        return subprocess.run(["podman", "exec", self.name, *command], capture_output=True, check=False)

    def stop(self):
        """As an orchestrator does: the image's signal, and time to end. The exit code."""
        subprocess.run(["podman", "stop", "--time", str(int(harness.PATIENCE_S * harness.SLOW)), self.name], capture_output=True, check=True)
        shown = subprocess.run(["podman", "inspect", "--format", "{{.State.ExitCode}}", self.name], capture_output=True,
                               check=True)
        return int(shown.stdout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(["podman", "rm", "--force", "--volumes", "--time", "0", self.name], capture_output=True, check=False)


def ask(url, key=None, body=None):
    request = urllib.request.Request(url, data=body, headers={"Authorization": f"Bearer {key}"} if key else {})
    with urllib.request.urlopen(request, timeout=harness.PATIENCE_S * harness.SLOW) as answer:
        return answer.read()


def test_the_demo_shows_the_shop_and_its_key_and_stops_cleanly(image):
    port = harness.free_port()
    with Container(image, "demo", options=[f"--publish=127.0.0.1:{port}:8080"]) as container:
        key = container.wait_log(r"Its admin key:   (\S+)")
        url = f"http://127.0.0.1:{port}"
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(url + "/v1/users/you/predictions")
        assert refused.value.code == 401
        assert b"<html" in ask(url + "/")
        event = b'{"user_id":"you","name":"cart","props":{"product_id":"1004856","price":131.5}}'
        answer = json.loads(ask(url + "/v1/events?wait=purchase&timeout_ms=10000", key, event))
        assert answer["accepted"] == 1 and 0 < answer["predictions"][0]["score"] < 1
        deadline = time.monotonic() + harness.PATIENCE_S * harness.SLOW
        users = 0
        while users < 5 and time.monotonic() < deadline:
            metrics = ask(url + "/metrics", key).decode()
            users = int(re.search(r"^kizashi_users (\d+)", metrics, re.M).group(1))
            time.sleep(0.1)
        assert users >= 5, "no sessions flow into it"
        assert container.inside("id", "-u").stdout == b"10001\n"
        refused = container.inside("touch", "/usr/bin/x")
        assert refused.returncode != 0 and b"Read-only file system" in refused.stderr
        assert container.stop() == 0, container.log()[-3000:]


def test_what_is_in_the_image_is_what_the_binary_needs(image):
    def run(*command, entry="kizashi"):
        done = subprocess.run([*RUN, "--rm", "--entrypoint", entry, image, *command], capture_output=True,
                              timeout=60 * harness.SLOW, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    assert run("version").startswith("kizashi ")
    assert "not found" not in run("/usr/bin/kizashi", entry="ldd")
    run("check", "/usr/share/kizashi/examples/shop")  # loads its models
    # No compiler, no header of ours, no source.
    assert run("-c", "ls /usr/include/*.h /src 2>/dev/null; command -v gcc cmake || true", entry="sh") == ""


class ContainerServer(harness.Server):
    """A role in a container: the project is in its image, the emulators are reached by the host's loopback."""

    IMAGE = IMAGE + "-project"
    container = None

    def start(self, timeout=60):
        self.port = harness.free_port()
        variables = {**{name: value for name, value in os.environ.items() if name.endswith("_EMULATOR_HOST")}, **self.env}
        self.container = Container(self.IMAGE, "up", "/project", "--data", "/data", "--listen", f"127.0.0.1:{self.port}",
                                   *self.args, options=["--network=host", *(f"--env={n}={v}" for n, v in variables.items())])
        self.container.wait_log(r"(is up: http://\S+)")
        return self

    def read_log(self):
        return self.container.log() if self.container else ""

    def stop(self, timeout=harness.PATIENCE_S):
        code = self.container.stop()
        self.kill()
        return code

    def kill(self):
        if self.container:
            self.container.__exit__()
        self.container = None


def test_roles_as_containers_give_what_one_machine_gives(image, tmp_path):
    cloud.need_emulators()
    cloud.need_rees46()
    project = cloud.shop(tmp_path / "shop")
    (tmp_path / "Dockerfile").write_text(f"FROM {image}\nCOPY shop /project\n")
    built = subprocess.run(["buildah", "bud", "--isolation", "chroot", "--layers", "-t", ContainerServer.IMAGE, tmp_path],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert built.returncode == 0, built.stdout.decode(errors="replace")[-3000:]
    rows = cloud.REES46.read_bytes().splitlines(keepends=True)
    (tmp_path / "events.csv").write_bytes(b"".join(rows[:301]))
    embedded = cloud.Embedded(project, tmp_path / "events.csv", tmp_path / "data")
    with cloud.Deployment(project, tmp_path, server=ContainerServer) as deployment:
        deployment.post([line for line, event in zip(embedded.lines, embedded.events) if not event.get("action")])
        deployment.watermark(max(event["ts"] for event in embedded.events) + 86400000)
        deployment.wait(lambda: len(deployment.news.results) >= len(embedded.results), 120, "all results")
        cloud.compare_results(embedded.results, deployment.news.by_request())
