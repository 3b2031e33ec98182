"""Bad things and their answers: kill -9 during an import, models that leak or print without end, places that cannot be
written, ports and data in use, data of a newer format."""

import base64
import fcntl
import http.client
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

import harness


def view(number, user="u1"):
    return {"event_id": f"e{number}", "user_id": user, "name": "view"}


def one_clear_line(result, *words):
    """Exit 1, and stderr has one line that says so (and maybe a hint), with these words."""
    assert result.returncode == 1, (result.returncode, result.stderr)
    lines = [line for line in result.stderr.decode().splitlines() if line.startswith("kizashi: ")]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in result.stderr.decode(), (word, result.stderr)


def test_a_start_right_after_a_kill_waits_for_what_is_left_of_the_killed(project, tmp_path):
    """A killed process has the lock until it has died."""
    data = tmp_path / "data"
    data.mkdir()
    with open(data / "lock", "wb") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        releaser = threading.Timer(0.3, fcntl.lockf, (lock, fcntl.LOCK_UN))
        releaser.start()
        with harness.Server(project, data) as server:
            server.send(view(1))
            assert server.stop() == 0
        releaser.join()


def test_kill_minus_nine_during_an_import(project, tmp_path):
    events, past = 300_000, int(time.time() * 1000) - 5 * 86400000
    source, data = tmp_path / "past.ndjson", tmp_path / "data"
    with open(source, "w", encoding="ascii") as file:
        for number in range(events):
            file.write(f'{{"event_id":"p{number}","user_id":"u{number % 999}","name":"view","ts":{past + number}}}\n')
    ends = []
    for size in (1 << 20, 8 << 20, 24 << 20):  # killed as soon as so much of the log is there
        process = subprocess.Popen([harness.BINARY, "import", project, source, "--data", data, "--quiet"], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60 * harness.SLOW
        while process.poll() is None and used(data) < size and time.monotonic() < deadline:
            time.sleep(0.002)
        process.kill()
        ends.append(process.wait())
        harness.run("fsck", project, "--data", data, check=0)
    assert ends[0] == -signal.SIGKILL and set(ends) <= {0, -signal.SIGKILL}, ends
    told = json.loads(harness.run("import", project, source, "--data", data, "--json", "--quiet", check=0).stdout)
    assert told["imported"] + told["duplicates"] == events and told["duplicates"] > 0 and told["rejected"] == 0, told
    harness.run("fsck", project, "--data", data, check=0)
    counted = harness.run("sql", project, "SELECT count(*), count(DISTINCT event_id) FROM events", "--data", data, "--format", "csv", check=0)
    assert counted.stdout.split()[-1] == f"{events},{events}".encode()
    assert harness.dump(data, "--type", "request") == []


def test_a_checkpoint_given_up_at_the_end_was_reported_as_a_failure(project, tmp_path):
    (tmp_path / "past.ndjson").write_text(json.dumps({**view(1), "ts": int(time.time() * 1000) - 5000}) + "\n")
    for place in ("a", "b", "c"):
        told = harness.run("import", project, tmp_path / "past.ndjson", "--data", tmp_path / place, "--quiet", check=0)
        assert b"checkpoint" not in told.stderr, told.stderr


def used(data):
    """Bytes written, whatever the files were filled with beforehand: the blocks of the log that are not zero."""
    total = 0
    for path in (pathlib.Path(data) / "log").glob("*.kzl"):
        with open(path, "rb") as file:
            while chunk := file.read(1 << 18):
                if not chunk.strip(b"\0"):
                    break
                total += len(chunk)
    return total


LEAKER = """
import kizashi

hoard = []


class Leaker(kizashi.Model):
    def predict(self, batch):
        for user in batch.user_ids:
            if user == "leak":
                while True:
                    hoard.append(bytearray(8 << 20))
            bytearray(48 << 20)  # what any row needs for a moment
        return [1.0] * len(batch)
"""


def test_a_model_that_leaks_is_restarted_and_only_its_row_is_dead(start):
    server = start(model=LEAKER, yaml=harness.YAML.replace("    timeout: 20s\n", "    timeout: 60s\n    resources: {memory: 256Mi}\n"))
    server.send(view(1, "before"), query="?wait=counter&timeout_ms=10000")
    server.send(*[view(n, f"good{n}") for n in range(5)], view(1, "leak"), *[view(n, f"good{n}") for n in range(5, 10)])
    server.wait(lambda: b"\nkizashi_requests_pending 0\n" in server.get("/metrics").body, 60, "the last result")
    letters = harness.dump(server.data, "--type", "deadletter")
    results = {r["request"]: r["user_id"] for r in harness.dump(server.data, "--type", "result")}
    assert [(results[letter["ref"]], letter["code"]) for letter in letters] == [("leak", "oom")], letters
    for user in ["before"] + [f"good{n}" for n in range(10)]:
        assert [p["score"] for p in server.get(f"/v1/users/{user}/predictions").json()["predictions"]] == [1.0], user
    state = next(m for m in server.get("/v1/admin/status").json()["models"] if m["name"] == "counter")
    assert state["restarts"] >= 1 and state["state"] != "fenced", state
    told = server.send(view(1, "later"), query="?wait=counter&timeout_ms=10000")
    assert [p["score"] for p in told["predictions"]] == [1.0], told


HOARDER = """
import kizashi

hoards = False


class Hoarder(kizashi.Model):
    def predict(self, batch):
        global hoards
        hoards = hoards or "hoarder" in batch.user_ids
        if hoards:
            raise MemoryError()
        return [1.0] * len(batch)
"""


def test_a_worker_out_of_memory_was_asked_again_and_failed_every_later_row(start):
    server = start(model=HOARDER)  # where no cgroup can be made, a leak ends as MemoryError in a worker that lives on
    server.send(view(1, "hoarder"))
    server.wait(lambda: harness.dump(server.data, "--type", "deadletter"), 20, "the dead letter")
    for number in range(3):
        told = server.send(view(1, f"later{number}"), query="?wait=counter&timeout_ms=10000")
        assert [p["score"] for p in told["predictions"]] == [1.0], told
    assert [letter["code"] for letter in harness.dump(server.data, "--type", "deadletter")] == ["oom"]


CHATTERBOX = """
import sys
import kizashi


class Chatterbox(kizashi.Model):
    def predict(self, batch):
        for _ in range(4000):
            print("y" * 1000)
        sys.stderr.write("z" * 4000000)
        return [2.0] * len(batch)
"""


def test_a_model_that_prints_megabytes_is_heard_in_part_and_answers(start):
    server = start(model=CHATTERBOX)
    for number in range(1, 6):  # 40 MB
        told = server.send(view(number), query="?wait=counter&timeout_ms=10000")
        assert [p["score"] for p in told["predictions"]] == [2.0], told
    assert len(server.read_log()) < 2_000_000
    assert server.stop() == 0


def test_data_that_cannot_be_written_is_one_clear_line(project, tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "data", "/proc/kizashi", "/dev/null/data"):
        result = harness.run("up", project, "--data", place, "--listen", "127.0.0.1:0")
        one_clear_line(result, str(place))


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="as root every directory can be written; needs setpriv")
def test_a_data_directory_without_permission_is_one_clear_line(tmp_path):
    import tempfile

    with tempfile.TemporaryDirectory() as place:  # tmp_path is closed to others
        os.chmod(place, 0o755)
        project = harness.write_project(pathlib.Path(place) / "shop")
        shutil.copy(harness.BINARY, pathlib.Path(place) / "kizashi")
        command = [pathlib.Path(place) / "kizashi", "up", project, "--data", pathlib.Path(place) / "data", "--listen", "127.0.0.1:0"]
        if os.geteuid() == 0:
            command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] + command
        else:
            os.chmod(place, 0o555)
        result = subprocess.run(list(map(str, command)), capture_output=True, timeout=harness.PATIENCE_S * harness.SLOW, check=False)
        os.chmod(place, 0o755)
        one_clear_line(result, "data", "ermission denied")


def test_a_port_in_use_and_up_twice(server, tmp_path):
    other = harness.write_project(tmp_path / "other")
    one_clear_line(harness.run("up", other, "--data", tmp_path / "other-data", "--listen", f"127.0.0.1:{server.port}"),
                   str(server.port), "in use")
    one_clear_line(harness.run("up", server.project, "--data", server.data, "--listen", "127.0.0.1:0"), "in use")
    # The first has not noticed.
    assert server.send(view(1), query="?wait=counter&timeout_ms=5000")["predictions"][0]["score"] == 1.0
    assert server.stop() == 0
    with harness.Server(other, tmp_path / "other-data") as second:  # and nothing was left behind by the second
        assert second.get("/readyz").status == 200


def crc32c(data):
    """CRC-32C (Castagnoli), bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def with_version(segment, version):
    """docs/log-format.md, a raw segment: the format at byte 8, the checksum of bytes 8 to 71 at byte 4."""
    data = bytearray(segment.read_bytes())
    assert data[:4] == b"KZL\xff" and struct.unpack_from("<I", data, 4)[0] == crc32c(data[8:72])
    struct.pack_into("<I", data, 8, version)
    struct.pack_into("<I", data, 4, crc32c(data[8:72]))
    segment.write_bytes(data)


def test_a_clock_that_has_gone_back_is_told(project, tmp_path):
    """Records of a time that this machine has not reached yet: windows hold, timers fire, and `status` says so."""
    source, data = tmp_path / "future.ndjson", tmp_path / "data"
    yaml = harness.YAML.replace("triggers:\n", "triggers:\n  leaving: {when: name = 'cart', delay: 500ms}\n")
    harness.write_project(project, yaml=yaml.replace("trigger: viewing", "trigger: [viewing, leaving]"))
    ahead = int(time.time()) + 3 * 365 * 86400
    source.write_text(json.dumps({**view(1), "ts": ahead * 1000}) + "\n")
    harness.run("replay", source, "--dir", project, "--data", data, "--clock", "event", "--quiet", check=0)
    with harness.Server(project, data) as server:
        told = server.send(view(2), query="?wait=counter&timeout_ms=5000")
        assert told["predictions"][0]["score"] == 2.0
        server.send({"event_id": "c", "user_id": "u2", "name": "cart"})
        server.wait(lambda: server.get("/v1/users/u2/predictions").json()["predictions"], 10, "the delayed prediction")
        problems = server.get("/v1/admin/status").json()["problems"]
        assert [p["what"] for p in problems if p["severity"] == "error"] == ["this machine's clock is behind the log"], problems
        assert server.stop() == 0
    harness.run("fsck", project, "--data", data, check=0)


def test_data_of_a_newer_format_is_refused_and_left_as_it_was(server, tmp_path):
    server.send(*[view(n) for n in range(10)], query="?wait=counter&timeout_ms=5000")
    harness.run("backup", tmp_path / "backup", "--url", f"http://127.0.0.1:{server.port}", check=0)
    assert server.stop() == 0
    segments = [path for place in (pathlib.Path(server.data), tmp_path / "backup") for path in place.rglob("*.kzl")]
    for segment in segments:
        with_version(segment, 2)
    before = [segment.read_bytes() for segment in segments]
    for command in (["up", server.project, "--listen", "127.0.0.1:0"], ["dump"], ["sql", server.project, "SELECT 1 FROM events"],
                    ["import", server.project, os.devnull], ["features", server.project, "--verify"]):
        if command[0] == "import":
            (tmp_path / "x.ndjson").write_text(json.dumps(view("x")) + "\n")
            command[2] = tmp_path / "x.ndjson"
        one_clear_line(harness.run(*command, "--data", server.data), "newer")
    for command in (["fsck", "--data", server.data], ["restore", tmp_path / "backup", server.project, "--data", tmp_path / "restored"]):
        result = harness.run(*command)
        assert result.returncode == 1 and b"newer" in result.stdout + result.stderr, result
    assert [segment.read_bytes() for segment in segments] == before
    for segment in segments:
        with_version(segment, 1)
    harness.run("fsck", "--data", server.data, check=0)


def test_idle_callers_leave_descriptors_for_the_log_where_there_are_few(project, tmp_path, monkeypatch):
    few = tmp_path / "kizashi-with-few-descriptors"
    few.write_text(f'#!/bin/sh\nulimit -n 256\nexec "{harness.BINARY}" "$@"\n')
    few.chmod(0o755)
    harness.write_project(project, yaml=harness.YAML + "limits: {segment_size: 16Mi}\n")
    monkeypatch.setattr(harness, "BINARY", str(few))
    with harness.Server(project) as server:
        assert "fewer connections are taken connections=64 instead_of=10000 descriptors=256" in server.read_log()
        mine = http.client.HTTPConnection("127.0.0.1", server.port, timeout=harness.PATIENCE_S * harness.SLOW)
        mine.connect()
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=harness.PATIENCE_S * harness.SLOW) for _ in range(63)]
        assert server.get("/healthz").status == 503
        # Two new segments of the log are made meanwhile.
        pad = {"pad": "y" * 50000}
        for n in range(40):
            mine.request("POST", "/v1/events", json.dumps([{**view(f"{n}-{k}", "filler"), "props": pad} for k in range(20)]))
            told = mine.getresponse()
            assert (told.status, json.loads(told.read())["accepted"]) == (200, 20)
        for one in idle:
            one.close()
        server.wait(lambda: server.get("/healthz").status == 200, 10, "room for callers")
        assert server.stop() == 0


def large_event(user, n):
    return {"event_id": f"{user}{n}", "user_id": user, "name": "seen", "props": {"pad": base64.b64encode(random.randbytes(30000)).decode()}}


def fill_segments(server, user):
    """Two segments of 16 MiB and more, with a checkpoint behind which all may be sealed."""
    for n in range(0, 1000, 20):
        server.send(*[large_event(user, n + i) for i in range(20)])
    assert server.stop() == 0


def with_damaged_segment(project, tmp_path):
    """A log whose first segment, of the user "old", is sealed and damaged."""
    harness.write_project(project, yaml=harness.YAML + "limits: {segment_size: 16Mi, reserve: 0}\n")
    with harness.Server(project, tmp_path / "data") as server:
        fill_segments(server, "old")
    with harness.Server(project, tmp_path / "data") as server:
        server.wait(lambda: (tmp_path / "data/log/00000001.kzs").exists(), 60, "a sealed segment")
        assert server.stop() == 0
    with open(tmp_path / "data/log/00000001.kzs", "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for at in range(size // 10, size // 10 * 8, 4096):
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 0x55]))


def test_damage_in_a_sealed_segment_was_told_to_nobody_but_who_asked(project, tmp_path):
    with_damaged_segment(project, tmp_path)
    with harness.Server(project, tmp_path / "data") as server:
        assert server.get("/v1/admin/status").json()["problems"] == []  # nobody has read it yet
        answer = server.send(large_event("old", 2), {"user_id": "new", "name": "view"})
        assert answer["accepted"] == 1 and [item["code"] for item in answer["rejected"]] == ["corrupt"], answer
        problem, = [p for p in server.get("/v1/admin/status").json()["problems"] if p["what"] == "stored data is damaged"]
        assert problem["severity"] == "error" and "fsck" in problem["remedy"], problem
        assert "kizashi_damaged_reads_total 1" in server.get("/metrics").body.decode()
        server.wait(lambda: "stored data is damaged" in server.read_log(), 20, "the log to say so")
        line, = [line for line in server.read_log().splitlines() if "stored data is damaged" in line]
        assert " error " in line and "00000001.kzs" in line and "fails its checksum" in line, line
        assert server.get("/readyz").status == 200  # all else goes on
        assert server.stop() == 0


def test_an_erasure_in_a_damaged_segment_kept_all_others_from_being_sealed(project, tmp_path):
    with_damaged_segment(project, tmp_path)
    with harness.Server(project, tmp_path / "data") as server:
        assert server.request("DELETE", "/v1/users/old").status == 202
        server.wait(lambda: "upkeep failed" in server.read_log(), 60, "the erasure to fail")
        before = {path.stem for path in (tmp_path / "data/log").glob("*.kzs")}
        fill_segments(server, "new")
    with harness.Server(project, tmp_path / "data") as server:
        server.wait(lambda: {path.stem for path in (tmp_path / "data/log").glob("*.kzs")} - before, 60, "another sealed segment")
        server.wait(lambda: server.read_log().count("upkeep failed") >= 2, 60, "the erasure to be tried again")
        assert server.stop() == 0
