"""Point-in-time replay of a shop's log, as `kizashi` itself would see it.

Runs the project's own SQL on Python's sqlite3 with the functions of Kizashi's
dialect, one user at a time: every request sees the events up to its own moment
and nothing later; every label sees only what came after.
"""

import csv
import datetime
import json
import re
import sqlite3
import statistics
import zoneinfo
from dataclasses import dataclass
from pathlib import Path

SHOP = Path(__file__).resolve().parent
UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
SQL_TYPE = {"float": "REAL", "string": "TEXT", "int": "INTEGER"}


@dataclass(frozen=True)
class Event:
    """One event; `seq` is its place in the log, `ts` milliseconds UTC."""

    seq: int
    event_id: str
    user_id: str
    name: str
    ts: int
    props: dict


@dataclass(frozen=True)
class Request:
    """One question to the models: `trigger` asked at `now_ms` about `event`."""

    trigger: str
    event: Event
    now_ms: int
    after_seq: int
    """Events with a higher `seq` lie in the request's future."""


def duration(text):
    """Milliseconds of `500ms`, `2s`, `10m`, `24h` or `7d`."""
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h|d)", text).groups()
    return int(number) * UNIT_MS[unit]


def local_time(ts_ms, tz):
    """The wall clock of time zone `tz` at `ts_ms`."""
    return datetime.datetime.fromtimestamp(ts_ms / 1000, zoneinfo.ZoneInfo(tz))


class Median:
    """SQL aggregate: the middle value, or the mean of the two middle ones."""

    def __init__(self):
        self.values = []

    def step(self, value):
        if value is not None:
            self.values.append(value)

    def finalize(self):
        return float(statistics.median(self.values)) if self.values else None


class Stddev(Median):
    """SQL aggregate: the sample standard deviation; NULL below two values."""

    def finalize(self):
        if len(self.values) < 2:
            return None
        mean = sum(self.values) / len(self.values)
        squares = sum((value - mean) ** 2 for value in self.values)
        return (squares / (len(self.values) - 1)) ** 0.5


class Project:
    """What the replay needs of kizashi.yaml, and the project's SQL."""

    def __init__(self, root=SHOP):
        self.root = Path(root)
        self.settings = read_settings(self.root / "kizashi.yaml")
        self.columns = {
            key.rsplit(".", 1)[1]: flow_mapping(value)
            for key, value in self.settings.items()
            if key.startswith("events.columns.")
        }
        self.models = sorted(
            {key.split(".")[1] for key in self.settings if key.startswith("models.")}
        )

    def triggers_of(self, model):
        return re.findall(r"\w+", self.settings[f"models.{model}.trigger"])

    def horizon_ms(self, model):
        return duration(self.settings[f"models.{model}.horizon"])

    def sql(self, model, kind):
        """The text of the model's `features` or `label` query."""
        return (self.root / self.settings[f"models.{model}.{kind}"]).read_text()


def read_settings(path):
    """Scalars of a YAML file of nested block mappings, by dotted key.

    Flow values such as `{a: b}` stay text; enough for the shop's own file
    without a YAML library.
    """
    settings, stack = {}, []
    for line in path.read_text().splitlines():
        match = re.fullmatch(r"( *)(\w+):(?: +(.*?))?(?: +#.*)?", line)
        if not match:
            continue
        indent, key, value = len(match[1]), match[2], match[3]
        while stack and stack[-1][0] >= indent:
            stack.pop()
        stack.append((indent, key))
        if value:
            settings[".".join(name for _, name in stack)] = value
    return settings


def flow_mapping(text):
    """`{from: $.price, type: float}` as a dict."""
    return dict(re.findall(r"(\w+): *([^,}]+)", text))


class History:
    """An `events` table with Kizashi's SQL functions and reference tables."""

    def __init__(self, project, categories=()):
        self.columns = project.columns
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.create_function("duration", 1, duration, deterministic=True)
        self.db.create_function(
            "local_hour", 2, lambda ts, tz: local_time(ts, tz).hour, deterministic=True)
        self.db.create_function(
            "local_day", 2, lambda ts, tz: local_time(ts, tz).date().isoformat(),
            deterministic=True)
        self.db.create_aggregate("median", 1, Median)
        self.db.create_aggregate("stddev", 1, Stddev)
        typed = "".join(f", {name} {SQL_TYPE[spec['type']]}" for name, spec in self.columns.items())
        self.db.execute(
            "CREATE TABLE events(seq INTEGER PRIMARY KEY, event_id TEXT, user_id TEXT, name TEXT,"
            " ts INTEGER, client_ts INTEGER, received_at INTEGER, session INTEGER,"
            f" props TEXT{typed})")
        self.insert = f"INSERT INTO events VALUES ({', '.join('?' * (9 + len(self.columns)))})"
        self.db.execute(
            "CREATE TABLE categories(category TEXT PRIMARY KEY, typical_price REAL, buy_rate REAL)")
        self.db.executemany("INSERT INTO categories VALUES (?, ?, ?)", categories)

    def add(self, event):
        typed = [event.props.get(spec["from"].removeprefix("$.")) for spec in self.columns.values()]
        self.db.execute(self.insert, (
            event.seq, event.event_id, event.user_id, event.name, event.ts, event.ts, event.ts,
            None, json.dumps(event.props), *typed))

    def drop_through(self, seq):
        self.db.execute("DELETE FROM events WHERE seq <= ?", (seq,))

    def holds(self, condition, seq):
        """Whether a trigger's `when` is true of the event `seq`."""
        row = self.db.execute(f"SELECT {condition} FROM events WHERE seq = ?", (seq,)).fetchone()
        return bool(row[0])

    def row(self, sql, **parameters):
        """The one row of `sql` and its column names."""
        cursor = self.db.execute(sql, parameters)
        names = [column[0] for column in cursor.description]
        return names, cursor.fetchone()

    def clear(self):
        self.db.execute("DELETE FROM events")


def browsing(project, history, events):
    """Requests of `browsing`: the first event at once, those within the debounce
    as one at its end."""
    when = project.settings["triggers.browsing.when"]
    debounce_ms = duration(project.settings["triggers.browsing.debounce"])
    window_end, held = None, None
    for event in events:
        if window_end is not None and event.ts >= window_end:
            if held:
                yield Request("browsing", held, window_end, event.seq - 1)
            window_end, held = None, None
        if not history.holds(when, event.seq):
            continue
        if window_end is None:
            window_end = event.ts + debounce_ms
            yield Request("browsing", event, event.ts, event.seq)
        else:
            held = event
    if held:
        yield Request("browsing", held, window_end, events[-1].seq)


def abandoning(project, history, events):
    """Requests of `abandoning`: a cart that nothing has followed up for the delay."""
    settings = {key: project.settings[f"triggers.abandoning.{key}"]
                for key in ("when", "delay", "unless")}
    delay_ms = duration(settings["delay"])
    for i, event in enumerate(events):
        if not history.holds(settings["when"], event.seq):
            continue
        due = event.ts + delay_ms
        meanwhile = [later for later in events[i + 1:] if later.ts < due]
        if any(history.holds(settings[key], later.seq)
               for later in meanwhile for key in ("when", "unless")):
            continue
        yield Request("abandoning", event, due, (meanwhile or [event])[-1].seq)


def requests(project, everything, events):
    """All requests of one user's `events`, in the order in which they fall due.

    `everything` is a History that holds all of these events.
    """
    asked = [*browsing(project, everything, events), *abandoning(project, everything, events)]
    return sorted(asked, key=lambda request: (request.after_seq, request.now_ms))


def parameters(request, events):
    """The SQL parameters of a request over one user's `events`."""
    return {
        "now": request.now_ms, "user_id": request.event.user_id,
        "event_id": request.event.event_id, "trigger_ts": request.event.ts, "session": None,
        "seq": request.after_seq, "first_seen": events[0].ts, "truncated": 0,
    }


def read_rees46(path):
    """The events of a REES46 CSV in `ts` order, without its empty fields."""
    with open(path, newline="") as file:
        for seq, row in enumerate(csv.DictReader(file), start=1):
            when = datetime.datetime.strptime(row["event_time"], "%Y-%m-%d %H:%M:%S UTC")
            ts = int(when.replace(tzinfo=datetime.timezone.utc).timestamp() * 1000)
            props = {key: row[key] for key in ("product_id", "category_code", "brand") if row[key]}
            if row["price"]:
                props["price"] = float(row["price"])
            yield Event(seq, f"e{seq}", row["user_id"], row["event_type"], ts, props)


class Replay:
    """One model's requests over many users' logs, with features and labels."""

    def __init__(self, project, model, categories, until_ms):
        """`until_ms` is the end of the log: a request whose horizon passes it
        has no label and is left out."""
        self.project, self.until_ms = project, until_ms
        self.triggers = project.triggers_of(model)
        self.horizon_ms = project.horizon_ms(model)
        self.features = project.sql(model, "features")
        self.label = project.sql(model, "label")
        self.everything, self.past, self.future = (
            History(project, categories) for _ in range(3))

    def samples(self, events):
        """Yields (request, feature names, feature row, label) of one user's `events`."""
        for history in (self.everything, self.past, self.future):
            history.clear()
        for event in events:
            self.everything.add(event)
            self.future.add(event)
        waiting = list(events)
        for request in requests(self.project, self.everything, events):
            if request.now_ms + self.horizon_ms > self.until_ms:
                continue
            while waiting and waiting[0].seq <= request.after_seq:
                self.past.add(waiting.pop(0))
            given = parameters(request, events)
            if request.trigger not in self.triggers or not self.wanted(request, given):
                continue
            self.future.drop_through(request.after_seq)
            names, row = self.past.row(self.features, **given)
            _, (label,) = self.future.row(
                self.label, now=request.now_ms, horizon=self.horizon_ms)
            yield request, names, row, label

    def wanted(self, request, given):
        """Whether the trigger's `having` holds of the history as of the request."""
        having = self.project.settings.get(f"triggers.{request.trigger}.having")
        return having is None or bool(self.past.row(f"SELECT {having}", **given)[1][0])
