"""`kizashi demo`, what `make run` and the container image start."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.request

import harness


def start(tmp_path, listen):
    log = open(tmp_path / "demo.log", "wb")
    return subprocess.Popen([harness.BINARY, "demo", "--listen", listen, "--data", tmp_path / "data"],
                            stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def wait_for(tmp_path, pattern, process):
    deadline = time.monotonic() + 60 * harness.SLOW
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(pattern, (tmp_path / "demo.log").read_text(errors="replace"))
        if found:
            return found.group(1)
        time.sleep(0.05)
    raise AssertionError((tmp_path / "demo.log").read_text(errors="replace")[-3000:])


def ask(url, key=None, body=None):
    request = urllib.request.Request(url, data=body)
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    with urllib.request.urlopen(request, timeout=harness.PATIENCE_S * harness.SLOW) as answer:
        return json.load(answer)


def end(process):
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=harness.PATIENCE_S * harness.SLOW) == 0


def test_the_demo_answers_its_own_curl_and_real_sessions_flow(tmp_path):
    port = harness.free_port()
    process = start(tmp_path, f"127.0.0.1:{port}")
    try:
        url = wait_for(tmp_path, r"The shop is up:  (\S+)", process)
        curl = wait_for(tmp_path, r"curl -s ('[^']*wait=purchase[^']*' -d '[^']*')", process)
        address, body = re.fullmatch(r"'([^']*)' -d '([^']*)'", curl).groups()
        # A machine that stands still may need more than the second that the curl gives it.
        answer = ask(address.replace("timeout_ms=1000", "timeout_ms=10000"), body=body.encode())
        assert "timeout_ms=1000" in address
        assert answer["accepted"] == 1 and 0 < answer["predictions"][0]["score"] < 1
        deadline = time.monotonic() + harness.PATIENCE_S * harness.SLOW
        users = 0
        while users < 5 and time.monotonic() < deadline:
            with urllib.request.urlopen(url + "/metrics", timeout=harness.PATIENCE_S * harness.SLOW) as metrics:
                users = int(re.search(r"^kizashi_users (\d+)", metrics.read().decode(), re.M).group(1))
            time.sleep(0.1)
        assert users >= 5
        again = subprocess.run([harness.BINARY, "demo", "--listen", f"127.0.0.1:{port}"], capture_output=True,
                               timeout=harness.PATIENCE_S * harness.SLOW, check=False)
        assert again.returncode == 1 and b"already" in again.stderr
    finally:
        end(process)


def test_listening_to_other_machines_it_makes_a_key_and_shows_it(tmp_path):
    port = harness.free_port()
    process = start(tmp_path, f"0.0.0.0:{port}")
    try:
        key = wait_for(tmp_path, r"Its admin key:   (\S+)", process)
        body = b'{"user_id":"you","name":"cart","props":{"product_id":"1","price":5.0}}'
        answer = ask(f"http://127.0.0.1:{port}/v1/events?wait=purchase&timeout_ms=5000", key, body)
        assert len(answer["predictions"]) == 1
        try:
            ask(f"http://127.0.0.1:{port}/v1/users/you/predictions")
            raise AssertionError("answered without a key")
        except urllib.error.HTTPError as refused:
            assert refused.code == 401
    finally:
        end(process)


def test_a_shop_that_is_killed_says_so(tmp_path):
    process = start(tmp_path, f"127.0.0.1:{harness.free_port()}")
    try:
        wait_for(tmp_path, r"(Ctrl-C stops it)", process)
        os.kill(int((tmp_path / "data/lock").read_text()), signal.SIGKILL)
        assert process.wait(timeout=harness.PATIENCE_S * harness.SLOW) == 1
    finally:
        process.kill()
    said = (tmp_path / "demo.log").read_text(errors="replace")
    assert f'killed by signal 9; what it had acknowledged is in "{tmp_path / "data"}"' in said, said[-1000:]
