"""Operating it: refusals at start, stopping, backup, erasure, import, full disk, keys, metrics."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import time

import pytest

import harness


def view(number, user="u1", **more):
    return {"event_id": f"e{number}", "user_id": user, "name": "view", **more}


def url(server):
    return f"http://127.0.0.1:{server.port}"


def test_a_wrong_project_is_refused_with_every_error_and_its_place(tmp_path):
    broken = harness.YAML.replace("when: name = 'view'", "when: nam = 'view'\n    debonce: 2s")
    broken = broken.replace("timeout: 20s", "timeout: soon")
    project = harness.write_project(tmp_path / "shop", yaml=broken)
    result = harness.run("up", project, check=1)
    text = result.stderr.decode()
    assert "debonce" in text and "debounce" in text and "soon" in text
    lines = [line for line in text.splitlines() if "kizashi.yaml:" in line]
    assert len(lines) >= 2 and all(line.split(":")[1].isdigit() and line.split(":")[2].isdigit() for line in lines)
    fixed = harness.YAML.replace("when: name = 'view'", "when: nam = 'view'")
    harness.write_project(project, yaml=fixed, sql="SELECT count(*) AS n FROM evnts\n")
    text = harness.run("check", project, check=1).stderr.decode()
    assert "nam" in text and "evnts" in text and "features/counter.sql:1:" in text


def test_port_taken_data_locked_and_other_project_are_one_clear_line(server, tmp_path):
    other = harness.write_project(tmp_path / "other")
    taken = harness.run("up", other, "--listen", f"127.0.0.1:{server.port}", "--data", tmp_path / "d2", check=1)
    assert str(server.port) in taken.stderr.decode()
    locked = harness.run("up", server.project, "--data", server.data, "--listen", "127.0.0.1:0", check=1)
    assert f"in use by process {server.process.pid}" in locked.stderr.decode()
    server.send(view(1))
    assert server.stop() == 0
    renamed = harness.write_project(tmp_path / "renamed", yaml=harness.YAML.replace("testshop", "another"))
    wrong = harness.run("up", renamed, "--data", server.data, "--listen", "127.0.0.1:0", check=1)
    assert "testshop" in wrong.stderr.decode()


def test_sigterm_ends_it_and_loses_nothing(server):
    server.send(*[view(n) for n in range(100)])
    assert server.stop() == 0
    server.start()
    server.wait(lambda: b"\nkizashi_requests_pending 0\n" in server.get("/metrics").body, 20, "the rest")
    assert len(harness.dump(server.data, "--type", "result")) == 100


def test_a_listener_beyond_loopback_needs_keys(project, tmp_path):
    refused = harness.run("up", project, "--data", tmp_path / "data", "--listen", "0.0.0.0:0", check=1)
    assert "keys create" in refused.stderr.decode()


def test_keys_permit_what_they_say(project, tmp_path):
    def create(*args):
        out = harness.run("keys", "create", project, "--data", tmp_path / "data", "--json", *args, check=0).stdout
        return json.loads(out)["secret"]

    write = create("--kind", "write", "--name", "page", "--events", "view")
    read = create("--kind", "read", "--name", "core")
    with harness.Server(project, tmp_path / "data") as server:
        def bearer(key):
            return {"Authorization": f"Bearer {key}"}

        assert server.post("/v1/events", view(1)).status == 401
        assert server.post("/v1/events", view(1), headers=bearer("kz_w_nonsense")).status == 401
        assert server.post("/v1/events", view(1), headers=bearer(write)).json()["accepted"] == 1
        told = server.post("/v1/events", [view(2) | {"name": "purchase"}], headers=bearer(write))
        assert told.status in (200, 403) and "purchase" in told.body.decode()
        assert server.get("/v1/users/u1/predictions", headers=bearer(write)).status == 403
        assert server.get("/v1/users/u1/predictions", headers=bearer(read)).status == 200
        assert server.post("/v1/admin/models/counter/pause", "", headers=bearer(read)).status == 403
        assert server.get("/healthz").status == 200


def test_loopback_without_keys_is_closed_to_other_sites(server):
    evil = server.post("/v1/events", view(1), headers={"Origin": "https://evil.example"})
    assert evil.status == 403
    rebound = server.get("/v1/users/u1/events", headers={"Host": "evil.example"})
    assert rebound.status in (400, 403)


def test_backup_while_running_and_restore(server, tmp_path):
    server.send(*[view(n, f"u{n}") for n in range(50)])
    server.wait(lambda: b"\nkizashi_requests_pending 0\n" in server.get("/metrics").body, 20)
    harness.run("backup", tmp_path / "backup", "--url", url(server), check=0)
    server.send(view(99, "late"))
    harness.run("restore", tmp_path / "backup", server.project, "--data", tmp_path / "restored", check=0)
    with harness.Server(server.project, tmp_path / "restored") as second:
        assert len(second.get("/v1/users/u7/events").json()["events"]) == 1
        assert second.get("/v1/users/u7/predictions").json() == server.get("/v1/users/u7/predictions").json()
        assert second.get("/v1/users/late/events").json().get("events", []) == []


def test_an_erased_user_is_gone_from_everything(server):
    secret = "very-secret-value-4711"
    server.send(*[view(n, "gone", props={"item": secret, "price": 1}) for n in range(20)], view(1, "stays"))
    server.send({"user_id": "gone"})  # rejected, kept as a dead letter
    server.wait(lambda: b"\nkizashi_requests_pending 0\n" in server.get("/metrics").body, 20)
    answer = server.request("DELETE", "/v1/users/gone")
    assert answer.status == 202
    erasure = answer.json()["erasure_id"]
    assert server.get("/v1/users/gone/events").json().get("events", []) == []
    server.wait(lambda: server.get(f"/v1/erasures/{erasure}").json()["state"] == "done", 60, "the erasure")
    assert server.stop() == 0
    found = subprocess.run(["grep", "-rl", secret, server.data], capture_output=True, check=False).stdout
    assert not found, found
    server.start()
    assert len(server.get("/v1/users/stays/events").json()["events"]) == 1
    old = view(3, "gone", ts=int(time.time() * 1000) - 3600000)
    assert server.post("/v1/events", [old]).json()["accepted"] == 0  # a redelivery does not bring it back
    assert server.stop() == 0
    harness.run("fsck", "--data", server.data, check=0)


def test_an_erased_users_events_leave_the_memory_of_histories_at_once(server):
    def kept():
        return int(re.search(rb"^kizashi_history_memory_bytes (\d+)$", server.get("/metrics").body, re.M).group(1))

    empty = kept()
    server.send(*[view(n, "gone") for n in range(20)], *[view(n, "other") for n in range(20)])
    server.wait(lambda: b"\nkizashi_requests_pending 0\n" in server.get("/metrics").body, 20)
    first = server.request("DELETE", "/v1/users/other").json()["erasure_id"]
    # Carried out, and with that a segment is sealed. The next requests read it, and keep what they read.
    server.wait(lambda: server.get(f"/v1/erasures/{first}").json()["state"] == "done", 60, "the erasure")
    assert kept() == empty
    server.send(view(20, "gone"))
    server.wait(lambda: kept() > empty + 300, 20, "events kept")
    assert server.request("DELETE", "/v1/users/gone").status == 202
    # Nobody asks a model any more, so that no scan finds out.
    server.wait(lambda: kept() == empty, 20, "nothing kept")


def test_a_backup_waits_until_upkeep_has_a_moment(start, tmp_path):
    server = start(yaml=harness.YAML + "limits: {segment_size: 16Mi, reserve: 16Mi}\n")
    for block in range(4):
        server.send(*[view(f"{block}-{n}", f"u{n}", props={"pad": "x" * 9000}) for n in range(500)])
        server.send(*[view(f"{block}-{n}x", f"u{n}", props={"pad": "y" * 9000}) for n in range(500)])
        server.request("DELETE", f"/v1/users/u{block}")
    for number in range(6):
        server.post("/v1/admin/checkpoint", "")
        harness.run("backup", tmp_path / f"backup{number}", "--url", url(server), check=0)
    harness.run("fsck", "--data", tmp_path / "backup5", check=0)


def test_what_an_interrupted_restore_left_is_not_in_the_way(server, tmp_path):
    server.send(view(1))
    harness.run("backup", tmp_path / "backup", "--url", url(server), check=0)
    for name, junk in (("log.restoring", "00000007.kzl"), ("views", "ckpt-0000000000000005.kzc")):
        (tmp_path / "elsewhere" / name).mkdir(parents=True)
        (tmp_path / "elsewhere" / name / junk).write_bytes(b"junk" * 1000)
    harness.run("restore", tmp_path / "backup", server.project, "--data", tmp_path / "elsewhere", check=0)
    with harness.Server(server.project, tmp_path / "elsewhere") as second:
        assert len(second.get("/v1/users/u1/events").json()["events"]) == 1
        assert second.stop() == 0


SECRET = "very-secret-value-4712"


def erase_behind_a_backup(server, backup):
    """A user with a device is in the backup; a backup later the device is linked to it, then both are erased."""
    server.send({"event_id": "p1", "anonymous_id": "phone", "name": "view", "props": {"item": SECRET}})
    server.send(*[view(n, "gone", props={"item": SECRET}) for n in range(5)], view(1, "stays"))
    server.wait(lambda: b"\nkizashi_requests_pending 0\n" in server.get("/metrics").body, 20)
    harness.run("backup", backup, "--url", url(server), check=0)
    assert server.post("/v1/identify", {"anonymousId": "phone", "userId": "gone"}).status == 200
    erasure = server.request("DELETE", "/v1/users/gone").json()["erasure_id"]
    server.send({"event_id": "after", "anonymous_id": "phone", "name": "view"})  # a new life
    server.wait(lambda: server.get(f"/v1/erasures/{erasure}").json()["state"] == "done", 60, "the erasure")


def is_erased(project, data, device_events):
    """The data says nothing of the user, before `up` and after it; a redelivery does not bring anything back."""
    found = subprocess.run(["grep", "-rl", SECRET, data], capture_output=True, check=False).stdout
    assert not found, found
    with harness.Server(project, data) as server:
        assert server.get("/v1/users/gone/events").json()["events"] == []
        assert len(server.get("/v1/users/anonymous:phone/events").json()["events"]) == device_events
        assert len(server.get("/v1/users/stays/events").json()["events"]) == 1
        old = int(time.time() * 1000) - 3600000
        answer = server.post("/v1/events", [view(3, "gone", ts=old), {"event_id": "p1", "anonymous_id": "phone", "name": "view", "ts": old}]).json()
        assert [item["code"] for item in answer["rejected"]] == ["erased", "erased"]
        assert server.send(view("new", "gone"))["accepted"] == 1
        assert server.stop() == 0
    harness.run("fsck", project, "--data", data, check=0)


def test_a_restore_does_not_bring_back_who_was_erased(server, tmp_path):
    erase_behind_a_backup(server, tmp_path / "backup")
    assert server.stop() == 0
    is_erased(server.project, server.data, 1)
    os.rename(server.data, server.data + ".old")
    told = harness.run("restore", tmp_path / "backup", server.project, "--data", server.data, check=0)
    assert b"2 users erased since the backup was made: erased again." in told.stdout, told.stdout
    assert SECRET.encode() not in harness.run("sql", server.project, "SELECT * FROM events", "--data", server.data, check=0).stdout
    is_erased(server.project, server.data, 0)


def test_erasures_come_from_a_newer_backup_and_need_no_readable_project(server, tmp_path):
    erase_behind_a_backup(server, tmp_path / "monday")
    harness.run("backup", tmp_path / "tuesday", "--url", url(server), check=0)
    assert server.stop() == 0
    shutil.rmtree(server.data)
    elsewhere = tmp_path / "elsewhere" / "data"
    elsewhere.parent.mkdir()
    harness.run("restore", tmp_path / "monday", server.project, "--data", elsewhere, check=0)
    assert subprocess.run(["grep", "-rqa", SECRET, elsewhere], check=False).returncode == 0  # nothing is known of it here
    shutil.rmtree(elsewhere)
    broken = tmp_path / "broken"
    broken.mkdir()
    told = harness.run("restore", tmp_path / "monday", broken, "--data", elsewhere, "--erased-from", tmp_path / "tuesday", check=0)
    assert b"are carried out when `up` starts" in told.stdout, told.stdout
    with harness.Server(server.project, elsewhere) as second:
        assert second.get("/v1/users/gone/events").json()["events"] == []
        second.wait(lambda: b"\nkizashi_erasures_total 2\n" in second.get("/metrics").body, 60, "the erasures")
        assert second.stop() == 0
    is_erased(server.project, elsewhere, 0)
    wrong = harness.run("restore", tmp_path / "monday", server.project, "--data", tmp_path / "x", "--erased-from", tmp_path / "none")
    assert wrong.returncode == 1 and b"none" in wrong.stderr


def test_imported_history_triggers_nothing_and_is_seen(project, tmp_path):
    lines = [json.dumps(view(n, f"u{n % 50}", ts=1700000000000 + n * 1000)) for n in range(5000)]
    source = tmp_path / "past.ndjson"
    source.write_text("\n".join(lines) + "\n")
    # A window that reaches back so far.
    yaml = harness.YAML.replace("    valid_for: 1h\n", "    valid_for: 1h\n    history: {window: 4000d, max_events: 500}\n")
    yaml = yaml.replace("  dedupe: 7d\n", "  dedupe: 7d\n  retention: {age: 4000d}\n")
    harness.write_project(project, yaml=yaml)
    harness.run("import", project, source, "--data", tmp_path / "data", check=0)
    harness.run("import", project, source, "--data", tmp_path / "data", check=0)  # again: nothing twice
    with harness.Server(project, tmp_path / "data") as server:
        assert harness.dump(server.data, "--type", "request") == []
        told = server.send(view("live", "u7"), query="?wait=counter&timeout_ms=5000")
        assert told["predictions"][0]["score"] == 101.0


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root to mount a small disk")
def test_a_full_disk_refuses_intake_and_recovers_by_itself(project, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m", "none", disk], check=False).returncode != 0:
        pytest.skip("mount is not permitted here")
    try:
        harness.write_project(project, yaml=harness.YAML + "limits: {segment_size: 16Mi, reserve: 16Mi}\n")
        server = harness.Server(project, disk / "data")
        server.data = str(disk / "data")
        server.log = None
        with server:
            server.send(view(1), query="?wait=counter&timeout_ms=5000")
            ballast = disk / "ballast"
            with open(ballast, "wb") as file:
                try:
                    while True:
                        file.write(b"x" * (1 << 20))
                except OSError:
                    pass
            pad = {"pad": "y" * 50000}

            def refused():
                answer = server.post("/v1/events", [view(f"{time.monotonic()}-{n}", "filler", props=pad) for n in range(20)])
                return answer if answer.status == 507 or answer.json().get("rejected") else None

            answer = server.wait(refused, 60, "the refusal")
            assert b"disk" in answer.body
            assert server.get("/v1/users/u1/predictions").json()["predictions"][0]["score"] == 1.0
            assert server.get("/readyz").status == 503
            told = server.get("/v1/admin/status").json()["problems"]
            assert [p["what"] for p in told[:2]] == ["intake is refused", "the data's disk is nearly full"]
            assert str(disk / "data") in told[1]["why"]
            # A reserve of one segment, which is in use: an erasure waits, and the log says so once, not each second.
            erasure = server.request("DELETE", "/v1/users/filler").json()["erasure_id"]
            server.wait(lambda: "erasures have to wait" in server.read_log(), 20, "the log to say that erasures wait")
            time.sleep(2.5)
            assert server.read_log().count("erasures have to wait") == 1, server.read_log()[-2000:]
            ballast.unlink()
            server.wait(lambda: server.post("/v1/events", [view("after", "u1")]).json().get("accepted") == 1, 30, "recovery")
            server.wait(lambda: "intake goes on" in server.read_log(), 10, "the log to say that it recovered")
            refusals = [line for line in server.read_log().splitlines() if "intake is refused" in line]
            assert len(refusals) == 1 and "the disk is full" in refusals[0] and str(disk / "data") in refusals[0], refusals
            server.wait(lambda: server.get(f"/v1/erasures/{erasure}").json()["state"] == "done", 30, "the erasure")
            assert "erasures go on" in server.read_log(), server.read_log()[-2000:]
            assert server.stop() == 0
        harness.run("fsck", "--data", disk / "data", check=0)
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def test_the_trace_tells_what_became_of_an_event(server):
    server.send(view(1), query="?wait=counter&timeout_ms=5000")
    trace = server.get("/v1/users/u1/events/e1/trace").json()
    text = json.dumps(trace)
    for word in ("viewing", "counter", "features", "model"):
        assert word in text, text


def test_metrics_and_status_speak(server):
    server.send(view(1), query="?wait=counter&timeout_ms=5000")
    metrics = server.get("/metrics").body.decode()
    for name in ("kizashi_events_accepted_total 1", "kizashi_requests_done_total 1", "_seconds_bucket"):
        assert name in metrics
    told = harness.run("status", "--url", url(server), check=0).stdout.decode()
    assert "counter" in told


def test_check_says_what_is_accepted_without_an_effect(project):
    assert "no effect" not in harness.run("check", project, check=0).stdout.decode()
    yaml = harness.YAML.replace("batch: {max: 64}", "batch: {max: 64, wait: 1ms}")
    harness.write_project(project, yaml=yaml)
    line = yaml[:yaml.index("wait: 1ms")].count("\n") + 1
    told = harness.run("check", project, check=0).stdout.decode()
    assert told.startswith("warning: ") and f'kizashi.yaml:{line}:28: "wait" has no effect' in told, told
    notices = json.loads(harness.run("check", project, "--json", check=0).stdout)["notices"]
    assert len(notices) == 1 and "has no effect" in notices[0]


def test_an_overlay_that_is_not_there_is_named(project):
    told = harness.run("check", project, "--env", "nowhere", check=1).stderr.decode()
    assert 'kizashi.nowhere.yaml" for --env nowhere' in told and "kizashi init" not in told, told


def test_one_machine_loads_nothing_for_the_cloud(server):
    server.send(view(1), query="?wait=counter&timeout_ms=5000")
    process = pathlib.Path(f"/proc/{server.process.pid}")
    assert "libsqlite3" in (process / "maps").read_text()
    assert not any(name in (process / "maps").read_text() for name in ("libgrpc", "libabsl", "libcares"))
    threads = {(task / "comm").read_text().strip() for task in (process / "task").iterdir()}
    assert "kz-log-sync" in threads and not any(name.startswith(("kz-rpc", "grpc")) for name in threads)


def test_help_and_version():
    text = harness.run("--help", check=0).stdout.decode()
    for command in ("init", "check", "test", "up", "send", "replay", "import", "sql", "features", "status", "top",
                    "models pause", "actions pause", "requests drop", "deadletters list", "keys create", "backup",
                    "restore", "fsck", "dump", "bench", "version"):
        assert command in text, command
    assert "sqlite" in harness.run("version", "-v", check=0).stdout.decode().lower()
    assert harness.run("nonsense").returncode == 2
    assert harness.run("up").returncode == 2


def test_init_makes_a_project_that_works(tmp_path):
    harness.run("init", tmp_path / "new", check=0)
    harness.run("check", tmp_path / "new", check=0)
    harness.run("test", tmp_path / "new", check=0)
    with harness.Server(tmp_path / "new", tmp_path / "data") as server:
        assert server.get("/readyz").status == 200


def test_check_finds_what_is_not_there_and_what_is_wrong_in_one_go_in_the_order_of_the_file(tmp_path):
    harness.run("init", tmp_path / "shop", check=0)
    place = tmp_path / "shop" / "kizashi.yaml"
    text = place.read_text()
    for old, new in (("    price: {from: $.price, type: float}\n", "    price: {from: $.price, type: float}\n    ts: {type: int}\n"),
                     ("    debounce: 1s ", "    debounce: 1s\n    debounce: 2s "),
                     ("    config: {base: -3.0} ", "    config: {base: \"${env:KIZASHI_NOT_THERE}\"} "),
                     ("    runtime: python\n", "    runtime: pyton\n"),
                     ("when: interest.score", "when: intrest.score"),
                     ('code: "HELLO"', 'code: "${file:code.txt}"')):
        assert old in text, old
        text = text.replace(old, new)
    place.write_text(text)
    lines = harness.run("check", tmp_path / "shop", check=1).stderr.decode().splitlines()
    told = [line.removeprefix(str(place) + ":").split(": ", 1) for line in lines if line.startswith(str(place))]
    assert [what for _, what in told] == [
        'every event has a column "ts" already',
        '"debounce" is given twice, first in line 18',
        '"runtime" is "pyton", it has to be one of python, http',
        "the environment has no KIZASHI_NOT_THERE",
        f'could not open "{tmp_path}/shop/code.txt": No such file or directory',
        "no such column: intrest.score",  # SQL comes after what is read
    ]
    numbers = [int(at.split(":")[0]) for at, _ in told[:5]]
    assert numbers == sorted(numbers) and lines[-1] == f'kizashi: 6 errors in "{tmp_path}/shop"'


def test_an_alias_in_the_project_is_refused_at_its_place(tmp_path):
    harness.run("init", tmp_path / "shop", check=0)
    place = tmp_path / "shop" / "kizashi.yaml"
    text = place.read_text()
    for old, new, at, what in (("retention: {age: 90d}", "retention: &keep {age: 90d}", "11:14", "anchors (&keep)"),
                               ("retention: {age: 90d}", "<<: *keep", "11:7", "aliases (*keep)")):
        place.write_text(text.replace(old, new))
        lines = harness.run("check", tmp_path / "shop", check=1).stderr.decode().splitlines()
        assert len(lines) == 2 and lines[0].startswith(f"{place}:{at}: {what} are not supported"), lines


def test_push_without_a_role_was_taken_and_had_no_effect(project):
    told = harness.run("up", project, "--push", check=2)
    assert b"--push is for --role infer" in told.stderr, told.stderr


def test_check_says_the_way_out_below_what_is_wrong(project):
    def told(old, new):
        harness.write_project(project, yaml=harness.YAML.replace(old, new))
        return harness.run("check", project, check=1).stderr.decode()

    assert "no such column: view\n  an event has event_id, user_id, name, " in told("when: name = 'view'", "when: name = view")
    assert "\n  a text with a comma, a colon or a bracket within {} or [] has to be quoted" in \
        told("when: name = 'view'", "count: {of: name IN ('view', 'cart'), within: 10m, reaches: 2}")
    assert "\n  a text with a colon in it has to be quoted" in told("when: name = 'view'", "when: name = 'view: all'")
    assert 'there is no trigger "viewed"; there are viewing\n' in told("trigger: viewing", "trigger: viewed")
    action = "actions:\n  offer:\n    when: counter.score > 1\n    schedule: {tz: Tokyo}\n    deliver: {web: {a: 1}}\n"
    text = told("    timeout: 20s\n", "    timeout: 20s\n" + action)
    assert 'kizashi.yaml:22:20: no time zone "Tokyo"\n  names are those below ' in text, text
    harness.write_project(project, model="import no_such_module\n")
    text = harness.run("check", project, check=1).stderr.decode()
    assert "No module named 'no_such_module' (model.py:1)\n  models run on /" in text, text
    assert f"or make a virtual environment in {project}/.venv and install it in that\n" in text, text


def test_a_key_that_is_not_known_was_met_with_the_advice_to_give_one(server):
    made = harness.run("keys", "create", server.project, "--data", server.data, "--kind", "admin", check=0)
    assert b"An `up` that is running takes it within two seconds.\n" in made.stderr
    server.wait(lambda: server.get("/v1/admin/status").status == 401, what="the key to be seen")
    key = made.stdout.decode().strip()

    def status(*args):
        return harness.run("status", "--url", url(server), *args)

    assert status("--key", key).returncode == 0
    assert b"no key was presented\n  give a key: --key KEY, or KIZASHI_KEY" in status().stderr
    assert b"unknown or revoked\n  one made just now is taken within two seconds; list" in status("--key", "kz_a_none").stderr
