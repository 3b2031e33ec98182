"""`kizashi send` to a server that does not take events for a while: what it says meanwhile, and that nothing is lost."""
import contextlib
import http.server
import json
import pathlib
import re
import subprocess
import threading

import pytest

import harness

TABLE = pathlib.Path(__file__).parents[2] / "src/base/errors.def"
CODES = [(name, int(status), again == "true") for name, status, again in
         re.findall(r'^X\(\w+, "(\w+)", (\d+), \d+, (true|false)', TABLE.read_text(), re.M) if name not in ("ok", "full", "end")]

FULL = {"error": {"code": "no_space", "message": "the disk is full: events are refused, reads go on", "hint": "make room"}}


class Script(http.server.BaseHTTPRequestHandler):
    """Answers of a script in their order, the last one for ever."""
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append([json.loads(line) for line in body.splitlines()])
        status, answer = self.server.answers[min(len(self.server.asked), len(self.server.answers)) - 1]
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format, *args):  # pylint: disable=redefined-builtin
        pass


@contextlib.contextmanager
def scripted(*answers):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Script) as server:
        server.answers, server.asked = list(answers), []
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def events(tmp_path, count):
    path = tmp_path / "events.ndjson"
    path.write_text("".join(json.dumps({"event_id": f"e{n}", "user_id": "u", "name": "view"}) + "\n" for n in range(count)))
    return path


def test_a_full_disk_was_waited_for_in_silence(tmp_path):
    with scripted((507, FULL)) as server:
        process = subprocess.Popen([harness.BINARY, "send", events(tmp_path, 3), "--url", server.url],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        # Read while it is refused: it says so at once, with the server's reason and remedy, and what it does.
        said = [process.stderr.readline() for _ in range(3)]
        assert said == [f"kizashi: {server.url} does not take events for now: 507: {FULL['error']['message']}\n", "  make room\n",
                        "  trying again for up to 10m; Ctrl-C ends it, and sending the file again is safe\n"], said
        server.answers = [(200, {"accepted": 3, "duplicates": 0})]
        out, err = process.communicate(timeout=30 * harness.SLOW)
        assert process.returncode == 0 and out == "accepted 3, duplicates 0, rejected 0\n", (out, err)
        assert "kizashi: events are taken again, after " in err, err


def test_what_patience_there_is_is_said_at_its_end(tmp_path):
    with scripted((503, {"error": {"code": "overloaded", "message": "too much at once"}})) as server:
        told = harness.run("send", events(tmp_path, 1), "--url", server.url, "--retry-for", "300ms", check=1)
        assert b"trying again for up to 300ms" in told.stderr and b"given up after" in told.stderr, told.stderr
        assert told.stderr.endswith(b"kizashi: too much at once\n"), told.stderr
        asked = len(server.asked)
        told = harness.run("send", events(tmp_path, 1), "--url", server.url, "--retry-for", "0s", check=1)
        assert told.stderr.endswith(b"kizashi: too much at once\n") and len(server.asked) == asked + 1, told.stderr
        told = harness.run("send", events(tmp_path, 1), "--url", server.url, "--retry-for", "300ms", "--quiet", check=1)
        assert b"trying again" not in told.stderr, told.stderr


def test_events_for_which_the_disk_was_full_were_counted_as_wrong(tmp_path):
    """A batch within which it became full: those it names are sent again, the others are not."""
    full = {"code": "no_space", "message": "the disk is full, send it again later"}
    first = {"accepted": 2, "duplicates": 1, "rejected": [{"index": 2, "code": "invalid", "message": "no name"}, {"index": 4, **full},
                                                        {"index": 5, **full}, {"index": 7, **full}]}
    with scripted((200, first), (200, {"accepted": 1, "rejected": [{"index": 1, **full}]}), (507, FULL), (200, {"accepted": 1})) as server:
        told = harness.run("send", events(tmp_path, 8), "--url", server.url, "--json", check=1)
        result = json.loads(told.stdout)
        assert (result["accepted"], result["duplicates"], result["rejected"]) == (5, 1, 1), result
        assert [[event["event_id"] for event in batch] for batch in server.asked] == [
            [f"e{n}" for n in range(8)], ["e4", "e5"], ["e5"], ["e5"], ["e7"]], server.asked
        assert len(result["reasons"]) == 1 and "events.ndjson:3: no name" in result["reasons"][0], result


@pytest.mark.parametrize("name,again", [(name, again) for name, _, again in CODES])
def test_events_to_be_sent_again_were_counted_as_wrong_but_for_a_full_disk(tmp_path, name, again):
    with scripted((200, {"accepted": 1, "rejected": [{"index": 1, "code": name, "message": "as the table says"}]}),
                  (200, {"accepted": 1})) as server:
        told = harness.run("send", events(tmp_path, 2), "--url", server.url, "--json", "--quiet", check=None)
        result = json.loads(told.stdout)
        assert (told.returncode, result["accepted"], result["rejected"]) == ((0, 2, 0) if again else (1, 1, 1)), told
        assert len(server.asked) == (2 if again else 1), server.asked


@pytest.mark.parametrize("status,error,again", [(status, {"code": name, "message": "no"}, again) for name, status, again in CODES if status != 413] +
                         [(502, None, True), (504, None, True), (501, None, False)])
def test_a_request_is_sent_again_by_the_table_of_codes(tmp_path, status, error, again):
    """What names no code is of a proxy between."""
    with scripted((status, {"error": error} if error else {}), (200, {"accepted": 2})) as server:
        told = harness.run("send", events(tmp_path, 2), "--url", server.url, "--json", "--quiet", check=None)
        assert (told.returncode, len(server.asked)) == ((0, 2) if again else (1, 1)), told


def test_given_up_without_an_event_taken_was_said_where_some_were(tmp_path):
    """Each answer takes one event more; patience is for a server that takes none, and counted from the last one taken."""
    def of(count):
        full = [{"index": n, "code": "no_space", "message": "the disk is full"} for n in range(1, count)]
        return 200, {"accepted": 1, "rejected": full}

    none = {"rejected": [{"index": n, "code": "no_space", "message": "the disk is full"} for n in range(2)]}
    with scripted(*[of(n) for n in range(8, 2, -1)], (200, none)) as server:
        told = harness.run("send", events(tmp_path, 8), "--url", server.url, "--retry-for", "400ms", check=1)
        assert b"stopped after 6 accepted" in told.stderr, told.stderr  # each after 50 ms: together they take longer than that
        given_up = re.search(rb"given up after (\d+)ms without an event taken", told.stderr)
        assert given_up and 400 <= int(given_up[1]) < 1000 * harness.SLOW, told.stderr
        assert [len(batch) for batch in server.asked[:7]] == [8, 7, 6, 5, 4, 3, 2], server.asked


def test_one_event_too_large_costs_none_of_the_others(tmp_path):
    class Limited(list):
        """Takes no request with e5 in it, nor one of more than four."""
        def __getitem__(self, index):
            batch = server.asked[-1]
            if len(batch) > 4 or any(event["event_id"] == "e5" for event in batch):
                return 413, {"error": {"code": "too_large", "message": "too much"}}
            return 200, {"accepted": len(batch)}

    with scripted(None) as server:
        server.answers = Limited([None])
        told = harness.run("send", events(tmp_path, 20), "--url", server.url, "--json", check=1)
        result = json.loads(told.stdout)
        assert (result["accepted"], result["rejected"]) == (19, 1) and "events.ndjson:6: too much" in result["reasons"][0], result


def test_fields_that_mean_nothing_are_said_once(server, tmp_path):
    """They were dropped in silence: the answer names them, send did not."""
    file = tmp_path / "events.ndjson"
    file.write_text("".join(json.dumps({"user_id": "u", "name": "view", "properties": {"price": n}}) + "\n" for n in range(3)))
    url = {"KIZASHI_URL": f"http://127.0.0.1:{server.port}"}  # as with --url
    told = harness.run("send", file, "--batch", "1", check=0, env=url)
    assert told.stdout == b"accepted 3, duplicates 0, rejected 0\n"
    assert told.stderr.count(b'ignored: field "properties", which belongs into props') == 1, told.stderr
    assert json.loads(harness.run("send", file, "--json", check=0, env=url).stdout)["ignored_fields"] == ["properties"]


def test_who_names_no_model_of_the_project_is_told_which_there_are(server):
    url = {"KIZASHI_URL": f"http://127.0.0.1:{server.port}"}
    told = harness.run("models", "pause", "counte", check=1, env=url).stderr.decode()
    assert told == 'kizashi: there is no model "counte"\n  there are: counter\n'
    told = harness.run("actions", "pause", "offer", check=1, env=url).stderr.decode()
    assert told == 'kizashi: there is no action "offer"\n  the project has no action\n'
    error = server.get("/v1/users/u/predictions?model=counte").json()["error"]
    assert (error["code"], error["hint"]) == ("not_found", "there are: counter")
