"""Will this visitor buy within ten minutes? Gradient-boosted trees in NumPy.

The trees are oblivious (every node of a level asks the same question, as in
CatBoost), so that a whole batch is scored by three array operations.
"""

import json
import math
import os

import kizashi

try:
    import numpy as np
except ImportError:
    np = None


class Purchase(kizashi.Model):
    """Probability of a purchase within the horizon."""

    def load(self, ctx):
        with open(os.path.join(ctx.path, "model.json")) as file:
            self.use(json.load(file))

    def use(self, artefact):
        """Takes an artefact: `base` (log odds) and T trees of depth D, each with
        D feature names, D thresholds and 2**D leaf values (log odds)."""
        self.base, self.trees = artefact["base"], artefact["trees"]
        self.names = None
        if np is not None:
            self.thresholds = np.array([tree["thresholds"] for tree in self.trees])
            self.leaves = np.array([tree["leaves"] for tree in self.trees])
            self.bits = 1 << np.arange(self.thresholds.shape[1])
            self.rows = np.arange(len(self.trees))

    def predict(self, batch):
        """Scores in (0, 1), shape (n,), of features (n, k); a missing value is NaN."""
        if batch.names != self.names:
            self.bind(batch.names)
        if np is not None:
            return self.score_array(np.asarray(batch.features))
        return [self.score_row(row) for row in batch.features]

    def bind(self, names):
        """Looks up the place of each tree's features among the batch's columns."""
        self.columns = [[names.index(name) for name in tree["features"]] for tree in self.trees]
        self.names = names
        if np is not None:
            self.columns = np.array(self.columns)

    def score_array(self, features):
        with np.errstate(invalid="ignore"):
            above = features[:, self.columns] > self.thresholds
        margin = self.base + self.leaves[self.rows, above @ self.bits].sum(axis=1)
        return 1.0 / (1.0 + np.exp(-margin))

    def score_row(self, row):
        margin = self.base
        for tree, columns in zip(self.trees, self.columns):
            leaf = sum((row[column] > threshold) << level for level, (column, threshold)
                       in enumerate(zip(columns, tree["thresholds"])))
            margin += tree["leaves"][leaf]
        return 1.0 / (1.0 + math.exp(-margin))
