#!/usr/bin/env python3
"""Trains the shop's two models on the REES46 log and says how good they are.

    python3 train.py [events.csv]

Needs NumPy. The log is split twice: the test requests are of users whom the
model never saw, and of a time after every training label was known. Five folds
of users take turns as the test users, and since 48 test buyers make a single
division into folds a matter of luck (AUC 0.6 to 0.74 for `purchase`), this is
done for several divisions and averaged. The models written are then fitted on
all users of the training period, still without a look at the test period.
"""

import argparse
import csv
import datetime
import importlib.util
import json
import sqlite3
import statistics
import sys
import types
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np

import emulate
import fit

SHOP = emulate.SHOP
REES46 = SHOP.parents[2] / "shared/data/rees46-multicategory-2019-10-01/events.csv"
SPLIT_MS = int(datetime.datetime(
    2019, 10, 1, 2, 35, tzinfo=datetime.timezone.utc).timestamp() * 1000)
FOLDS = 5
DIVISIONS = 5
LEARNERS = {"purchase": fit.fit_trees, "leaving": fit.fit_logistic}
RARE = 5
"""A category needs this many views in training to have a row in the table."""
PRIOR_VIEWS = 50
"""The weight, in views, of the overall rate in a category's buy rate."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", nargs="?", type=Path, default=REES46, help="REES46 events.csv")
    log = parser.parse_args().log
    if not log.is_file():
        sys.exit(f'train.py: no REES46 log at "{log}": give the path of events.csv '
                 "(README.md says where it comes from)")
    users = by_user(emulate.read_rees46(log))
    project = emulate.Project()
    for model in LEARNERS:
        tests = [cross_test(project, model, users, division) for division in range(DIVISIONS)]
        write_artefact(project, model, users, report(model, tests))


def by_user(events):
    """The log's events by user, each user's in the order of the log."""
    users = defaultdict(list)
    for event in events:
        users[event.user_id].append(event)
    return users


def category_table(users):
    """Rows (category, median price viewed, smoothed purchases per view) of the
    training period of these users."""
    prices, bought = defaultdict(list), defaultdict(int)
    for events in users.values():
        for event in events:
            category = event.props.get("category_code")
            if category is None or event.ts >= SPLIT_MS:
                continue
            if event.name == "view":
                prices[category].append(event.props["price"])
            bought[category] += event.name == "purchase"
    overall = sum(bought.values()) / sum(map(len, prices.values()))
    return [(category, round(statistics.median(seen), 2),
             round((bought[category] + PRIOR_VIEWS * overall) / (len(seen) + PRIOR_VIEWS), 5))
            for category, seen in sorted(prices.items()) if len(seen) >= RARE]


def dataset(project, model, users, categories):
    """Requests as arrays: names, x (n, k) with NaN, y (n,), now_ms (n,), users (n,)."""
    end_ms = max(events[-1].ts for events in users.values())
    replay = emulate.Replay(project, model, categories, end_ms)
    rows, labels, now_ms, owners, names = [], [], [], [], None
    for user, events in users.items():
        for request, names, row, label in replay.samples(events):
            rows.append([np.nan if value is None else value for value in row])
            labels.append(label)
            now_ms.append(request.now_ms)
            owners.append(user)
    return names, np.array(rows, dtype=float), np.array(labels), np.array(now_ms), np.array(owners)


def training_rows(project, model, now_ms):
    """Which requests had their label before the split."""
    return now_ms + project.horizon_ms(model) <= SPLIT_MS


def cross_test(project, model, users, division):
    """Every user's test requests, scored by a model fitted on the other users.

    Returns scores, labels and users of the test requests, all (n,).
    """
    folds = {user: zlib.crc32(f"{division}:{user}".encode()) % FOLDS for user in users}
    scores, labels, owners = [], [], []
    for fold in range(FOLDS):
        others = {user: events for user, events in users.items() if folds[user] != fold}
        names, x, y, now_ms, who = dataset(project, model, users, category_table(others))
        mine = np.array([folds[user] for user in who]) == fold
        train = training_rows(project, model, now_ms) & ~mine
        test = (now_ms >= SPLIT_MS) & mine
        artefact = LEARNERS[model](names, x[train], y[train])
        scores.append(predict(model, artefact, names, x[test]))
        labels.append(y[test])
        owners.append(who[test])
    return np.concatenate(scores), np.concatenate(labels), np.concatenate(owners)


def predict(model, artefact, names, x):
    """Scores of x (n, k) by the very class that Kizashi serves."""
    served = load_class(model)()
    served.use(artefact)
    return served.predict(types.SimpleNamespace(features=x, names=names))


def load_class(model):
    """The model's class from its model.py; `kizashi` itself need not be installed."""
    sys.modules.setdefault("kizashi", types.SimpleNamespace(Model=object))
    spec = importlib.util.spec_from_file_location(model, SHOP / "models" / model / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, model.capitalize())


def report(model, tests):
    """Prints the measures of the divisions' tests and returns what the artefact keeps."""
    each = [float(fit.auc(labels, scores)) for scores, labels, _ in tests]
    scores, labels, owners = map(np.concatenate, zip(*tests))
    low, high = fit.auc_interval(labels, scores, owners)
    base = np.full(len(labels), labels.mean())
    measures = {
        "auc": round(statistics.mean(each), 3),
        "auc_95_by_user": [round(float(low), 3), round(float(high), 3)],
        "auc_of_each_division": [round(value, 3) for value in each],
        "log_loss": round(fit.log_loss(labels, scores), 4),
        "log_loss_of_base_rate": round(fit.log_loss(labels, base), 4),
        "base_rate": round(float(labels.mean()), 4),
        "requests": len(tests[0][1]), "positives": int(tests[0][1].sum()),
        "users": len(set(owners)),
        "score_quantiles": {f"p{q}": round(float(np.percentile(scores, q)), 4)
                            for q in (1, 10, 25, 50, 75, 90, 99)},
    }
    print(model)
    for name, value in measures.items():
        print(f"  {name:22} {value}")
    for mean, share, count in fit.calibration(labels, scores):
        print(f"  scored {mean:.3f}, came true {share:.3f} (of {count // len(tests)})")
    return measures


def write_artefact(project, model, users, measures):
    """Fits on all users of the training period and writes model.json and the table."""
    categories = category_table(users)
    names, x, y, now_ms, _ = dataset(project, model, users, categories)
    train = training_rows(project, model, now_ms)
    artefact = LEARNERS[model](names, x[train], y[train])
    events = [event for events in users.values() for event in events]
    provenance = {
        "data": "REES46 eCommerce behavior data from multi category store, 2019-Oct",
        "source": "https://www.kaggle.com/datasets/mkechinov/"
                  "ecommerce-behavior-data-from-multi-category-store",
        "events": len(events), "users": len(users),
        "from": iso(min(event.ts for event in events)),
        "to": iso(max(event.ts for event in events)),
        "trained_on": {"labels_known_before": iso(SPLIT_MS), "requests": int(train.sum()),
                       "base_rate": round(float(y[train].mean()), 4)},
        "tested_on": {"requests_from": iso(SPLIT_MS),
                      "method": f"{FOLDS} folds of users, each scored by a fit on the "
                                f"other users; {DIVISIONS} divisions into folds, averaged",
                      **measures},
        "sqlite": sqlite3.sqlite_version, "numpy": np.__version__,
    }
    text = compact({"model": model, "provenance": provenance, "names": names, **artefact})
    (SHOP / "models" / model / "model.json").write_text(text)
    with open(SHOP / "tables/categories.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["category", "typical_price", "buy_rate"])
        writer.writerows(categories)


def compact(document):
    """JSON with one line for each top-level key, tree or feature."""
    def lines(value):
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return "[\n    " + ",\n    ".join(map(json.dumps, value)) + "\n  ]"
        if isinstance(value, dict):
            return "{\n    " + ",\n    ".join(
                f"{json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()) + "\n  }"
        return json.dumps(value)
    return "{\n  " + ",\n  ".join(
        f"{json.dumps(key)}: {lines(value)}" for key, value in document.items()) + "\n}\n"


def iso(ts_ms):
    when = datetime.datetime.fromtimestamp(ts_ms / 1000, datetime.timezone.utc)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    main()
