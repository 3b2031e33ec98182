"""Hostile input to every command: nonsense arguments, project files, models, event files and damaged data directories.
Never a signal, never a hang, and what fails says why. Also run with KIZASHI pointing to a build with ASan."""

import concurrent.futures
import os
import pathlib
import random
import shutil
import signal
import subprocess

import pytest

import harness
import hostile

COMMANDS = ["init", "check", "test", "up", "send", "replay", "import", "version", "sql", "features", "status", "top", "models pause",
            "models resume", "models unfence", "actions pause", "actions resume", "requests drop", "deadletters list", "deadletters show",
            "deadletters retry", "deadletters drop", "keys create", "keys list", "keys revoke", "backup", "restore", "fsck", "dump", "bench"]
OPTIONS = ["url", "key", "map", "batch", "retry-for", "speed", "users", "ts", "dir", "data", "env", "clock", "out", "until", "from", "format",
           "model", "user", "as-of", "limit", "before", "stage", "kind", "name", "events", "origins", "rate", "type", "every", "listen", "log",
           "timeout", "seconds", "nonsense", "", "-", "=", "json=x", "help=1"]
ODD = ["", " ", "-", "--", "---", "-1", "0", "99999999999999999999", "1e999", "NaN", "\n", "\x01", "\udcff\udcfe", "💥", "x" * 3000, "/dev/null", "/", ".",
       "..", "no/such/file", "/proc/self/mem", "%s%n", "'; DROP TABLE events; --", "http://", "http://127.0.0.1:1", "http://[::1", "unix:", "unix:/no",
       "ftp://x", "http://127.0.0.1:99999", "http://x y/", "1h1h", "h", "-5s", "999999999999h", "a=b=c", "=,=,=", ",", "ts=", "now", "2026-99-99", "*"]
# Every answer of a command ends within this, also under ASan on a busy machine.
DEADLINE_S = 60 * harness.SLOW


def ask(*args, cwd=None, stdin=b"", timeout=DEADLINE_S):
    """Runs one command; it has to end by itself with 0, 1 or 2, and to say why where it failed."""
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    command = [harness.BINARY, *[os.fsencode(str(a)) for a in args]]
    try:
        result = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, cwd=cwd, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return [f"hangs: {args!r:.600}"]
    faults = []
    if result.returncode not in (0, 1, 2) or b"Sanitizer" in result.stderr or b"runtime error" in result.stderr:
        faults.append(f"exit {result.returncode}: {args!r:.600}: {result.stderr[-3000:]!r}")
    elif result.returncode != 0 and len(result.stderr.strip() + result.stdout.strip()) < 10:
        faults.append(f"exit {result.returncode} without a word: {args!r:.600}")
    return faults


def ask_all(jobs, least):
    """Runs jobs (functions that return faults) two at a time; counts them."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda job: job(), jobs))
    faults = [fault for result in results for fault in result]
    assert not faults, "\n".join([f"{len(faults)} of {len(results)} are wrong:"] + faults[:12])
    assert len(results) >= least, len(results)


def clean(argument):
    return argument.replace("\x00", "")


def test_nonsense_arguments(tmp_path):
    random_ = hostile.rng("arguments")
    project = harness.write_project(tmp_path / "shop")
    work = tmp_path / "work"
    work.mkdir()

    def job(args):
        return lambda: ask(*args, cwd=work)

    jobs = [job([clean(odd)]) for odd in ODD] + [job(command.split()) for command in COMMANDS if command not in ("bench", "top")]
    for command in COMMANDS:
        words = command.split()
        # What would wait or go on by design gets an end; what would really run is given no project.
        tail = ["--retry-for", "1ms"] if command == "send" else ["--url", "http://127.0.0.1:1"] if command == "replay" else []
        for _ in range(3):
            option = random_.choice(OPTIONS)
            yield_ = words + tail + [f"--{option}", clean(random_.choice(ODD))]
            jobs.append(job(yield_ + (["--no-such-option"] if command in ("bench", "up") else [])))
        if command in ("bench", "up", "init", "backup"):
            continue
        for _ in range(4):
            jobs.append(job(words + [clean(random_.choice(ODD + [str(project)])) for _ in range(random_.randint(1, 4))] + tail))
    for url in [odd for odd in ODD if odd]:
        jobs.append(job(["status", "--url", clean(url)]))
    for text in ODD + ["SELECT", "SELECT 1; SELECT 2", "DELETE FROM events", "ATTACH '/etc/passwd' AS x", "PRAGMA writable_schema=1", "SELECT load_extension('x')",
                       "SELECT randomblob(9e9)", "WITH RECURSIVE r(x) AS (SELECT 1) SELECT * FROM r, nothing", "(" * 5000, "SELECT " + "1," * 5000 + "1",
                       "SELECT zeroblob(1e9)", "SELECT writefile('x', 'y')", "VACUUM INTO 'x'", "SELECT * FROM sqlite_master", "SELECT printf('%.*c', 2000000000, 'x')"]:
        jobs.append(job(["sql", project, clean(text), "--data", tmp_path / "none"]))
    ask_all(jobs, 300)
    assert not (work / "x").exists()


YAML = harness.YAML + """
tables:
  kinds: {file: tables/kinds.csv, key: item, columns: {weight: float, n: int}}
actions:
  coupon:
    mode: on
    when: counter.score > 1
    holdout: 10%
    schedule: {days: mon-fri, hours: "10:00-18:00", tz: Asia/Tokyo}
    caps: [{max: 1, per: user, every: 24h}]
    deliver: {web: {title: "x", body: "y"}, valid_for: 10m}
limits: {segment_size: 16Mi, reserve: 16Mi, pending: 1000}
"""
CSV = "item,weight,n\na,1.5,1\nb,2.5,2\n\"c,\"\"d\",3,3\n"
YAML_NONSENSE = ["", " ", "\t", "\x00", "---\n---\n", "[" * 5000, "{" * 5000, "- " * 5000, "a: &a [*a, *a]", "a: &a\n  b: *a", "&x " * 500, "!!python/object/apply:os.system [id]", "project: [1]",
                 "project: {a: b}", "project: ''", "project: x\nproject: y", "project: x\nmodels: 1", "project: x\nmodels: [1]", "project: x\nmodels: {a: 1}", "project: x\nmodels: {a: {}}", "? [a]\n: b",
                 "project: x\nevents: {columns: {a: {from: $, type: x}}}", "project: x\nevents: {columns: {a: {from: '$.a[', type: int}}}", "project: x\nevents: {dedupe: 99999999999999h}",
                 "project: x\nevents: {dedupe: -1s}", "project: x\ntriggers: {t: {when: 1, count: 2}}", "project: x\ntriggers: {t: {when: '" + "(" * 3000 + "'}}", "\ufeffproject: x", "project: \"\\ud800\"",
                 "project: x\nlimits: {segment_size: 1}", "project: x\nlimits: {pending: -1}", "project: 💥", "a: |\n" + " x\n" * 20000, "x" * 100000,
                 "a: [&a [x,x,x,x,x,x,x,x,x], &b [*a,*a,*a,*a,*a,*a,*a,*a], &c [*b,*b,*b,*b,*b,*b,*b,*b], &d [*c,*c,*c,*c,*c,*c,*c], &e [*d,*d,*d,*d,*d,*d,*d], &f [*e,*e,*e,*e,*e,*e], [*f,*f,*f,*f,*f]]"]
SQL_NONSENSE = ["", ";", "SELECT", "SELECT 1;;SELECT 2", "DROP TABLE events", "SELECT * FROM events", "SELECT (" * 2000, "SELECT " + "1+" * 20000 + "1 AS a", "\x00", "SELECT 1 AS a, 2 AS a", "SELECT @nothing AS a",
                "SELECT random() AS a", "SELECT 'x' AS a", "SELECT x'00' AS a", "PRAGMA foo", "ATTACH 'x' AS y", "EXPLAIN SELECT 1", "SELECT 1 AS \"\"", "SELECT 1 AS \"a\nb\"", "/* ", "-- x", "SELECT 'abc", "SELECT duration('x') AS a",
                "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM r) SELECT count(*) AS n FROM r", "SELECT randomblob(999999999) AS a", "VALUES (1)", "SELECT " + ",".join(f"{n} AS c{n}" for n in range(3000)),
                "SELECT count(*) AS n FROM events e1, events e2, events e3, events e4", "SELECT load_extension('x') AS a", "SELECT * FROM pragma_database_list", "SELECT 💥", "SELECT fts5('x') AS a", "\udcff"]
CSV_NONSENSE = ["", "\n", "item", "item,weight,n", "item,weight,n\n", "item,weight\na,1\n", "item,weight,n\na\n", "item,weight,n\na,b,c\n", "item,weight,n\na,1,1\na,2,2\n", "item,weight,n\na,1,1,1,1\n", "item,item,item\n1,2,3\n",
                "item,weight,n\n\"a,1,1\n", "item,weight,n\n\"a\"b,1,1\n", "\x00,\x00,\x00\n", "item,weight,n\n" + "x" * 1000000 + ",1,1\n", "item,weight,n\r1,1,1\r", "item,weight,n\na,1e999,1\n", "item,weight,n\na,1,1.5\n",
                "item,weight,n\n\udcff,1,1\n", "item;weight;n\na;1;1\n", "\ufeffitem,weight,n\na,1,1\n", "," * 100000, "item,weight,n\n,,\n", "item,weight,n\na,nan,99999999999999999999\n"]


def put(directory, name, content):
    path = pathlib.Path(directory) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))


def write_shop(directory):
    harness.write_project(directory, yaml=YAML)
    put(directory, "tables/kinds.csv", CSV)
    put(directory, "tests/one.yaml", "name: one\nstart: 2026-03-02T01:00:00Z\nevents:\n  - {at: 0s, user: u1, name: view}\nexpect:\n  predictions:\n    - {at: 0s, user: u1, model: counter, min: 1, max: 1}\n")
    return directory


def test_project_files_of_nonsense(tmp_path):
    write_shop(tmp_path / "good")
    harness.run("check", tmp_path / "good", check=0)
    harness.run("test", tmp_path / "good", check=0)
    random_ = hostile.rng("projects")
    variants = [("kizashi.yaml", text) for text in YAML_NONSENSE] + [("features/counter.sql", text) for text in SQL_NONSENSE]
    variants += [("tables/kinds.csv", text) for text in CSV_NONSENSE]
    variants += [("kizashi.yaml", hostile.mutate(random_, YAML.encode())) for _ in range(220)]
    variants += [("features/counter.sql", hostile.mutate(random_, harness.SQL.encode())) for _ in range(60)]
    variants += [("tables/kinds.csv", hostile.mutate(random_, CSV.encode())) for _ in range(60)]
    lines = YAML.splitlines()
    for number, line in enumerate(lines):  # each value replaced by one of a wrong kind
        if ": " in line:
            for wrong in ("[]", "{}", "-1", "''", "99999999999999999999", "*"):
                variants.append(("kizashi.yaml", "\n".join(lines[:number] + [line.split(": ")[0] + ": " + wrong] + lines[number + 1:])))

    def job(number, name, content):
        def run():
            directory = tmp_path / f"p{number}"
            shutil.copytree(tmp_path / "good", directory)
            put(directory, name, content)
            try:
                return [f"{name} {content!r:.200}: {fault}" for fault in ask("check", directory, "--no-models")]
            finally:
                shutil.rmtree(directory)
        return run

    ask_all([job(number, *variant) for number, variant in enumerate(variants)], 500)


def test_project_tests_of_nonsense(tmp_path):
    write_shop(tmp_path / "good")
    random_ = hostile.rng("project tests")
    text = (tmp_path / "good/tests/one.yaml").read_bytes()

    def job(number):
        content = random_.choice(YAML_NONSENSE).encode("utf-8", "surrogateescape") if number < 10 else hostile.mutate(random_, text)

        def run():
            put(tmp_path, f"t{number}.yaml", content)
            return [f"{content!r:.300}: {fault}" for fault in ask("test", tmp_path / "good", tmp_path / f"t{number}.yaml")]
        return run

    ask_all([job(number) for number in range(30)], 30)


def test_a_directory_a_fifo_and_nothing_where_files_should_be(tmp_path):
    def job(number, name, make):
        def run():
            directory = write_shop(tmp_path / f"q{number}")
            (directory / name).unlink()
            make(directory / name)
            return ask("check", directory, "--no-models")
        return run

    def loop(path):
        path.symlink_to(path.name)

    names = ["kizashi.yaml", "features/counter.sql", "tables/kinds.csv", "models/counter/model.py"]
    makes = [lambda path: None, lambda path: path.mkdir(), os.mkfifo, loop, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("/proc/self/mem")]
    jobs = [job(number, name, make) for number, (name, make) in enumerate((n, m) for n in names for m in makes)]
    ask_all(jobs, 24)


MODELS = {
    "nothing": "",
    "no class": "import kizashi\n",
    "no utf-8": b"\xff\xfe\x00",
    "nul": "import kizashi\x00\n",
    "syntax": "def (:\n",
    "deep": "x = " + "(" * 5000 + ")" * 5000,
    "raise": "raise RuntimeError('x' * 1000000)\n",
    "base exception": "raise BaseException()\n",
    "system exit": "import sys\nsys.exit(0)\n",
    "exit": "import os\nos._exit(0)\n",
    "kill": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
    "segfault": "import ctypes\nctypes.string_at(0)\n",
    "recursion": "def f(): return f()\nf()\n",
    "for ever": "while True: pass\n",
    "sleep": "import time\ntime.sleep(1000)\n",
    "ignore": "import signal, time\nfor n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(1000)\n",
    "print": "import sys\nfor n in range(20000): print('y' * 500)\nsys.stderr.write('z' * 5000000)\n" + harness.MODEL,
    "no newline": "import sys\nsys.stderr.write('z' * 20000000)\nsys.stderr.flush()\n" + harness.MODEL,
    "descriptors": "import os\nos.closerange(0, 100)\n" + harness.MODEL,
    "garbage": "import os\nfor fd in range(0, 20):\n    try: os.write(fd, b'\\xff' * 100000)\n    except OSError: pass\n" + harness.MODEL,
    "fork": "import os, time\nif os.fork() == 0: time.sleep(5); os._exit(0)\n" + harness.MODEL,
    "memory": "x = bytearray(1 << 45)\n",
    "two": harness.MODEL + harness.MODEL.replace("Counter", "Other"),
    "no predict": "import kizashi\nclass M(kizashi.Model): pass\n",
    "init": "import kizashi\nclass M(kizashi.Model):\n    def __init__(self, a, b, c): pass\n    def predict(self, batch): return []\n",
    "shadow": "import sys\nsys.modules['kizashi'] = None\nsys.modules['json'] = None\nsys.path.clear()\n",
    "directory": "import os, shutil\nos.chdir('/')\n" + harness.MODEL,
}


def test_models_that_misbehave_at_import(tmp_path):
    def job(number, content):
        def run():
            directory = harness.write_project(tmp_path / f"m{number}")
            put(directory, "models/counter/model.py", content)
            return ask("check", directory, "--timeout", "1s")
        return run

    ask_all([job(number, content) for number, content in enumerate(MODELS.values())], 27)


def test_event_files_of_garbage(server, tmp_path):
    random_ = hostile.rng("files")
    good = hostile.dumps(hostile.EVENT)
    csv = b"event_time,event_type,user_id,price\n" + b"".join(b"2019-10-01 00:00:%02d UTC,view,u%d,1.5\n" % (n, n) for n in range(20))
    files = [b"", b"\n" * 100000, b"\x00" * 5000, b"[" * 100000, good[:-1], b"\xff\xfe" + good, b"\xef\xbb\xbf" + good, b"x" * 20000000, b'"' * 100000, random_.randbytes(100000),
             b"\x1f\x8b" + random_.randbytes(1000), b"\r".join([good] * 5), b"\n".join([good, b"", b"{", b"[]", b"1", b"null", good]), b"[" + good + b"]", b"PK\x03\x04" + random_.randbytes(500)]
    files += [b"\n".join(hostile.mutate(random_, good) for _ in range(50)) for _ in range(12)]
    tables = [b"", b"\n", b",,,,\n", csv[:60], csv + b"\"", b"event_time,event_type,user_id\n1,2\n", b"event_time;event_type;user_id\n1;2;3\n", csv.replace(b"\n", b"\r"), csv.replace(b",", b"\x00"), b"\"" + b"x" * 5000000]
    tables += [hostile.mutate(random_, csv) for _ in range(15)]
    mapping = ["--map", "ts=event_time,name=event_type,user_id=user_id"]
    url = f"http://127.0.0.1:{server.port}"

    def job(number, content, suffix, extra):
        def run():
            path = tmp_path / f"f{number}{suffix}"
            path.write_bytes(content)
            faults = ask("send", path, "--url", url, "--retry-for", "1s", *extra)
            faults += ask("import", server.project, path, "--data", tmp_path / f"i{number}", *extra)
            faults += ask("replay", path, "--url", url, "--speed", "max", *extra) if number % 3 == 0 else []
            faults += ask("replay", path, "--dir", server.project, "--data", tmp_path / f"r{number}", "--clock", "event", *extra) if number % 8 == 0 else []
            shutil.rmtree(tmp_path / f"i{number}", ignore_errors=True)
            shutil.rmtree(tmp_path / f"r{number}", ignore_errors=True)
            return faults
        return run

    jobs = [job(number, content, ".ndjson", []) for number, content in enumerate(files)]
    jobs += [job(100 + number, content, ".csv", mapping) for number, content in enumerate(tables)]
    jobs += [lambda m=m: ask("import", server.project, tmp_path / "good.csv", "--data", tmp_path / "mapped", "--map", m)
             for m in ("", "=", "ts", "ts=", "ts=nothing", "=event_time", "ts=event_time,ts=event_time", "x=y", ",,,", "ts=event_time,name=event_type,user_id=" + "x" * 5000)]
    (tmp_path / "good.csv").write_bytes(csv)
    ask_all(jobs, 55)
    assert server.process.poll() is None
    server.send({"event_id": "after", "user_id": "after", "name": "view"}, query="?wait=counter&timeout_ms=5000")


def test_a_csv_whose_quote_is_never_closed_was_read_for_ever(project, tmp_path):
    source = tmp_path / "open.csv"
    source.write_text("ts,name,user_id\n1570000000000,view,u1\n1570000000001,view,\"u2\n1570000000002,view,u3\n")
    told = harness.run("import", project, source, "--data", tmp_path / "data", "--map", "ts=ts,name=name,user_id=user_id", "--json", check=0, timeout=60)
    assert b'"imported":2' in told.stdout and b'"rejected":1' in told.stdout, told
    assert b"line 3: a quote opened in this row is never closed" in told.stderr


def test_a_file_of_nul_bytes_was_sent_as_nothing_and_called_done(project, tmp_path):
    (tmp_path / "holes.ndjson").write_bytes(b"\x00" * 5000 + b"\n" + b"\x00" * 10)
    told = harness.run("import", project, tmp_path / "holes.ndjson", "--data", tmp_path / "data", "--quiet", check=1)
    assert b"holes.ndjson:1: " in told.stderr, told


def test_a_fifo_in_the_place_of_a_project_file_was_waited_for(project):
    (project / "kizashi.yaml").unlink()
    os.mkfifo(project / "kizashi.yaml")
    assert b"it is no regular file" in harness.run("check", project, check=1).stderr


def test_a_clock_further_ahead_than_a_shared_store_can_look_is_refused(project):
    (project / "kizashi.yaml").write_text("project: shop\nevents:\n  clock: {max_ahead: 24h}\n")
    harness.run("check", project, check=0)
    (project / "kizashi.yaml").write_text("project: shop\nevents:\n  clock: {max_ahead: 24h1s}\n")
    assert b'kizashi.yaml:3:10: "max_ahead" may be at most 24h' in harness.run("check", project, check=1).stderr


# ---- damaged data --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A project, its data directory (several segments, a sealed one if there was time, a checkpoint), and a backup."""
    directory = tmp_path_factory.mktemp("stored")
    yaml = harness.YAML + "limits: {segment_size: 16Mi, reserve: 16Mi}\n"
    harness.write_project(directory / "shop", yaml=yaml)
    with harness.Server(directory / "shop", directory / "data") as server:
        for block in range(200):
            server.send(*[{"event_id": f"e{block}-{n}", "user_id": f"u{n % 30}", "name": "view" if n < 3 else "other", "props": {"price": n, "pad": "x" * 900}}
                          for n in range(100)], {"user_id": "bad"})
        server.post("/v1/admin/checkpoint", "")
        server.send({"event_id": "late", "user_id": "u1", "name": "view"}, query="?wait=counter&timeout_ms=5000")
        harness.run("backup", directory / "backup", "--url", f"http://127.0.0.1:{server.port}", check=0)
        assert server.stop() == 0
    harness.run("fsck", directory / "shop", "--data", directory / "data", check=0)
    return directory


def damages(random_, names):
    """(what, function of the directory) for each way a disk, a person or another program spoils a directory."""
    def edit(name, change):
        own = random.Random(random_.random())  # damages are done by several threads

        def apply(directory):
            path = directory / name
            data = bytearray(path.read_bytes() or b"x")
            # Where the records are, not in the zeros behind them.
            change(data, own, max(1, len(data.rstrip(b"\x00"))))
            path.write_bytes(data)
        return apply

    def flip(data, own, end):
        for _ in range(own.randint(1, 3)):
            data[own.randrange(end)] ^= 1 << own.randrange(8)

    def cut(data, own, end):
        del data[own.randrange(end):]

    def noise(data, own, end):
        at = own.randrange(end)
        data[at:at + 512] = own.randbytes(min(512, len(data) - at))

    def zero(data, own, end):
        at = own.randrange(end)
        data[at:at + 4096] = bytes(min(4096, len(data) - at))

    def head(data, own, end):
        for at in range(min(128, end)):
            if own.random() < 0.1:
                data[at] = own.choice([0, 1, 0x7F, 0x80, 0xFF, own.randrange(256)])

    def grow(data, own, _):
        data.extend(own.randbytes(5000))

    def empty(data, _, __):
        data.clear()

    for name in names:
        holds_data = name.endswith((".kzl", ".kzs", ".kzc"))
        for change in (flip, flip, flip, cut, cut, noise, zero, head, head, grow, empty) if holds_data else (flip, empty):
            yield f"{change.__name__} {name}", edit(name, change)
        yield f"no {name}", lambda d, n=name: (d / n).unlink()
        yield f"directory {name}", lambda d, n=name: ((d / n).unlink(), (d / n).mkdir())
        yield f"dangling {name}", lambda d, n=name: ((d / n).unlink(), (d / n).symlink_to("nowhere"))
        other = random_.choice(names)
        yield f"{name} is {other}", lambda d, n=name, o=other: shutil.copyfile(d / o, d / n) if n != o else None
        yield f"rename {name}", lambda d, n=name: (d / n).rename(str(d / n) + "0")
    yield "nothing", lambda d: [p.unlink() for p in d.rglob("*") if p.is_file()]
    yield "odd files", lambda d: [put(d, f"{sub}/{n}", b"x") for sub in (".", "log") for n in ("00000000.kzl", "ffffffff.kzl", "zz.kzl", "x.kzs", "x.tmp", "lock", "checkpoint", "keys", "erasures")]


def up_and_down(project, data):
    """Starts, asks for one prediction and stops, if the data lets it; else exit 1 with a reason."""
    server = harness.Server(project, data, env={"ASAN_OPTIONS": "detect_leaks=1"})
    try:
        server.start(DEADLINE_S)
    except AssertionError as fault:
        text = str(fault)
        return [] if "exit 1)" in text and "Sanitizer" not in text and "kizashi" in text else [text]
    try:
        answer = server.get("/v1/users/u1/events")
        code = server.stop(30)
        return [] if answer.status in (200, 404, 500) and code == 0 else [f"answered {answer.status}, exit {code}: {server.read_log()[-2000:]}"]
    except Exception as fault:  # it died while it was asked
        return [f"{fault!r} {server.read_log()[-3000:]}"]
    finally:
        server.kill()


def test_damaged_data_directories(stored, tmp_path):
    random_ = hostile.rng("damage")
    names = sorted(str(p.relative_to(stored / "data")) for p in (stored / "data").rglob("*") if p.is_file())
    assert any(name.endswith(".kzl") for name in names), names

    def job(number, what, damage):
        def run():
            directory = tmp_path / f"d{number}"
            shutil.copytree(stored / "data", directory)
            damage(directory)
            faults = ask("fsck", "--data", directory)
            faults += ask("dump", "--data", directory, "--type", "request") if number % 2 else []
            if number % 4 == 0:
                faults += ask("fsck", stored / "shop", "--data", directory)
                faults += ask("sql", stored / "shop", "SELECT count(*), sum(price) FROM events", "--data", directory)
            if number % 10 == 0:
                faults += ask("features", stored / "shop", "--verify", "--data", directory)
            if number % 9 == 0:
                faults += up_and_down(stored / "shop", directory)
            shutil.rmtree(directory, ignore_errors=True)
            return [f"{what}: {fault}" for fault in faults]
        return run

    ask_all([job(number, *one) for number, one in enumerate(damages(random_, names))], 60)


def test_damaged_backups(stored, tmp_path):
    random_ = hostile.rng("backups")
    names = sorted(str(p.relative_to(stored / "backup")) for p in (stored / "backup").rglob("*") if p.is_file())

    def job(number, what, damage):
        def run():
            directory = tmp_path / f"b{number}"
            shutil.copytree(stored / "backup", directory)
            damage(directory)
            faults = ask("restore", directory, stored / "shop", "--data", tmp_path / f"n{number}")
            shutil.rmtree(directory, ignore_errors=True)
            shutil.rmtree(tmp_path / f"n{number}", ignore_errors=True)
            return [f"{what}: {fault}" for fault in faults]
        return run

    ask_all([job(number, *one) for number, one in enumerate(damages(random_, names)) if number % 2 == 0], 15)


def test_sigterm_ends_long_commands(tmp_path):
    """A command that would go on for ever ends when it is told to."""
    source = tmp_path / "past.ndjson"
    source.write_bytes(b"\n".join(hostile.dumps({**hostile.EVENT, "event_id": f"e{n}"}) for n in range(10)))
    for command in (["top", "--url", "http://127.0.0.1:1"], ["send", source, "--url", "http://127.0.0.1:1"], ["replay", source, "--url", "http://127.0.0.1:1", "--loop"]):
        process = subprocess.Popen([harness.BINARY, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) in (0, 1, 2, -signal.SIGTERM, 130, 143)
