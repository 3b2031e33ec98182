#!/usr/bin/env python3
"""Turns OTTO's sessions (JSON lines) into Kizashi events (NDJSON), in `ts` order.

    python3 convert_otto.py train.jsonl > otto.ndjson
    python3 convert_otto.py --visits train.jsonl > otto-visits.ndjson

A session becomes an anonymous visitor; clicks, carts and orders become view,
cart and purchase; the article id becomes `product_id`. The order of events that
share a millisecond is kept as it was.

OTTO's twenty sessions last up to four weeks. With --visits they are cut where
nothing happened for half an hour, each visit becomes a visitor of its own, and
one starts every two seconds: a lively shop, while the pace within each visit
stays the real one.
"""

import argparse
import json

NAMES = {"clicks": "view", "carts": "cart", "orders": "purchase"}
VISIT_GAP_MS = 30 * 60 * 1000
VISIT_EVERY_MS = 2000


def kizashi_events(visitor, events, shift_ms=0):
    """One visitor's OTTO events as Kizashi events, moved by `shift_ms`."""
    for place, event in enumerate(events):
        yield {
            "event_id": f"{visitor}-{place}",
            "anonymous_id": visitor,
            "name": NAMES[event["type"]],
            "ts": event["ts"] + shift_ms,
            "props": {"product_id": str(event["aid"])},
        }


def sessions(lines):
    """Kizashi events of all sessions, session by session."""
    for session in map(json.loads, lines):
        yield from kizashi_events(f"otto-{session['session']}", session["events"])


def visits(lines):
    """Kizashi events of all visits, in the order in which the visits began."""
    parts = [(f"otto-{session['session']}-{number}", visit)
             for session in map(json.loads, lines)
             for number, visit in enumerate(split(session["events"]))]
    parts.sort(key=lambda part: part[1][0]["ts"])
    first_ms = parts[0][1][0]["ts"]
    for place, (visitor, visit) in enumerate(parts):
        start_ms = first_ms + place * VISIT_EVERY_MS
        yield from kizashi_events(visitor, visit, start_ms - visit[0]["ts"])


def split(events):
    """Cuts a session into visits with no gap of VISIT_GAP_MS inside."""
    parts = [[events[0]]]
    for before, event in zip(events, events[1:]):
        if event["ts"] - before["ts"] >= VISIT_GAP_MS:
            parts.append([])
        parts[-1].append(event)
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visits", action="store_true", help="cut sessions into visits")
    parser.add_argument("file", type=argparse.FileType(), help="OTTO's train.jsonl")
    options = parser.parse_args()
    convert = visits if options.visits else sessions
    for event in sorted(convert(options.file), key=lambda event: event["ts"]):
        print(json.dumps(event, separators=(",", ":")))


if __name__ == "__main__":
    main()
