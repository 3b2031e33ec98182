"""The two learners and the measures of `train.py`, in NumPy alone."""

import numpy as np


def sigmoid(margin):
    return 1.0 / (1.0 + np.exp(-margin))


def log_odds(y):
    return float(np.log(y.mean() / (1.0 - y.mean())))


def fit_logistic(names, x, y, l2=30.0, limit=3.0, steps=30):
    """The artefact of models/leaving: Newton's method on log-scaled features.

    x (n, k) with NaN where missing, y (n,) of 0 and 1. The absence of a feature
    is a term of its own where it is absent in at least 2% of the rows.
    """
    logs = np.log1p(np.maximum(x, 0.0))
    mean, scale = np.nanmean(logs, axis=0), np.nanstd(logs, axis=0) + 1e-9
    absent = np.isnan(x)
    z = np.where(absent, 0.0, np.clip((logs - mean) / scale, -limit, limit))
    often = np.flatnonzero(absent.mean(axis=0) >= 0.02)
    design = np.hstack([z, absent[:, often], np.ones((len(y), 1))])
    ridge = np.diag([l2] * (design.shape[1] - 1) + [0.0])
    weights = np.zeros(design.shape[1])
    for _ in range(steps):
        p = sigmoid(design @ weights)
        gradient = design.T @ (p - y) + ridge @ weights
        curvature = (design * (p * (1.0 - p))[:, None]).T @ design + ridge
        weights -= np.linalg.solve(curvature, gradient)
    missing = np.zeros(len(names))
    missing[often] = weights[len(names):-1]
    return {"bias": round(float(weights[-1]), 6), "features": {
        name: {"mean": round(float(mean[i]), 6), "scale": round(float(scale[i]), 6),
               "weight": round(float(weights[i]), 6), "missing": round(float(missing[i]), 6)}
        for i, name in enumerate(names)}}


def fit_trees(names, x, y, trees=60, depth=2, rate=0.1, l2=30.0, bins=16):
    """The artefact of models/purchase: boosted oblivious trees by Newton steps.

    x (n, k) with NaN where missing (never above a threshold), y (n,) of 0 and 1.
    """
    quantiles = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    edges = [np.unique(np.round(np.nanquantile(column, quantiles), 6)) for column in x.T]
    low = np.where(np.isnan(x), -np.inf, x)
    binned = [np.searchsorted(edge, column) for edge, column in zip(edges, low.T)]
    base = round(log_odds(y), 6)
    margin, ensemble = np.full(len(y), base), []
    for _ in range(trees):
        p = sigmoid(margin)
        gradient, curvature = y - p, p * (1.0 - p)
        leaf, tree = np.zeros(len(y), dtype=int), {"features": [], "thresholds": []}
        for level in range(depth):
            j, cut = best_split(binned, edges, leaf, 1 << level, gradient, curvature, l2)
            tree["features"].append(names[j])
            tree["thresholds"].append(float(edges[j][cut]))
            leaf |= (binned[j] > cut).astype(int) << level
        size = 1 << depth
        step = rate * np.bincount(leaf, gradient, size) / (np.bincount(leaf, curvature, size) + l2)
        tree["leaves"] = [round(float(value), 6) for value in step]
        margin = margin + np.array(tree["leaves"])[leaf]
        ensemble.append(tree)
    return {"base": base, "trees": ensemble}


def best_split(binned, edges, leaf, leaves, gradient, curvature, l2):
    """The feature and edge that gain most when all `leaves` are split by them.

    The gain is XGBoost's (Chen and Guestrin, 2016, eq. 7) summed over leaves.
    """
    best = (-np.inf, 0, 0)
    for j, (bins, edge) in enumerate(zip(binned, edges)):
        shape = (leaves, len(edge) + 1)
        place = leaf * shape[1] + bins
        g = np.bincount(place, gradient, leaves * shape[1]).reshape(shape).cumsum(axis=1)
        h = np.bincount(place, curvature, leaves * shape[1]).reshape(shape).cumsum(axis=1)
        g_all, h_all = g[:, -1:], h[:, -1:]
        gain = (g**2 / (h + l2) + (g_all - g) ** 2 / (h_all - h + l2)).sum(axis=0)[:-1]
        if len(gain):
            best = max(best, (float(gain.max()), j, int(gain.argmax())))
    return best[1:]


def auc(y, score):
    """Area under the ROC curve; ties count half (Mann and Whitney)."""
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2.0)[place]
    positives = int(y.sum())
    negatives = len(y) - positives
    return (rank[y == 1].sum() - positives * (positives + 1) / 2.0) / (positives * negatives)


def log_loss(y, p):
    return float(-np.mean(np.log(np.where(y == 1, p, 1.0 - p))))


def auc_interval(y, score, users, rounds=300, seed=1):
    """95% interval of the AUC, drawing whole users with replacement."""
    rng = np.random.default_rng(seed)
    _, owner = np.unique(users, return_inverse=True)
    order = np.argsort(owner, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(owner[order])) + 1)
    draws = []
    for _ in range(rounds):
        rows = np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))])
        draws.append(auc(y[rows], score[rows]))
    return np.percentile(draws, [2.5, 97.5])


def calibration(y, p, parts=5):
    """(mean score, share of ones, count) in `parts` equal parts by score."""
    return [(float(p[rows].mean()), float(y[rows].mean()), len(rows))
            for rows in np.array_split(np.argsort(p, kind="stable"), parts)]
