"""Is this visitor about to leave? Logistic regression on log-scaled features."""

import json
import math
import os

import kizashi

try:
    import numpy as np
except ImportError:
    np = None

LIMIT = 3.0
"""Standardised features are held within +-LIMIT, so that a history unlike any
in the training data cannot run away with the score."""


class Leaving(kizashi.Model):
    """Probability that nothing more is heard of the visitor within the horizon."""

    def load(self, ctx):
        with open(os.path.join(ctx.path, "model.json")) as file:
            self.use(json.load(file))

    def use(self, artefact):
        """Takes an artefact: `bias` and, for each feature name, `mean` and `scale`
        of log(1 + x), its `weight`, and the weight `missing` of its absence."""
        self.bias, self.terms = artefact["bias"], artefact["features"]
        self.names = None
        if np is not None:
            table = [[term[key] for key in ("mean", "scale", "weight", "missing")]
                     for term in self.terms.values()]
            self.mean, self.scale, self.weight, self.missing = np.array(table).T

    def predict(self, batch):
        """Scores in (0, 1), shape (n,), of features (n, k); a missing value is NaN."""
        if batch.names != self.names:
            self.columns = [batch.names.index(name) for name in self.terms]
            self.names = batch.names
        if np is not None:
            return self.score_array(np.asarray(batch.features))
        return [self.score_row(row) for row in batch.features]

    def score_array(self, features):
        x = features[:, self.columns]
        absent = np.isnan(x)
        z = (np.log1p(np.maximum(x, 0.0)) - self.mean) / self.scale
        z = np.where(absent, 0.0, np.minimum(np.maximum(z, -LIMIT), LIMIT))
        margin = self.bias + z @ self.weight + absent @ self.missing
        return 1.0 / (1.0 + np.exp(-margin))

    def score_row(self, row):
        margin = self.bias
        for column, term in zip(self.columns, self.terms.values()):
            if math.isnan(row[column]):
                margin += term["missing"]
                continue
            z = (math.log1p(max(row[column], 0.0)) - term["mean"]) / term["scale"]
            margin += term["weight"] * min(max(z, -LIMIT), LIMIT)
        return 1.0 / (1.0 + math.exp(-margin))
