"""A Bayesian linear model of the values of trials: the worth of each phrase."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NOISE = 0.25
"""Variance of the standardized value of a trial around the linear model."""
PRIOR = 0.35
"""Prior variance of the value of a phrase, in standardized units."""
DESCRIBED = 1.2
"""Prior mean of a phrase that occurs in every description."""


class PhraseValueModel:
    """Bayesian linear regression of the value of a trial on its phrases and words.

    Args:
        sets: features of each trial.
        values: their standardized values.
        described: fraction of descriptions that contain a phrase, which shifts its prior mean.
    """

    def __init__(self, sets: Sequence[frozenset[str]], values: Floats, described: dict[str, float]) -> None:
        self.described = described
        self.names = sorted(frozenset().union(*sets))
        self.column = {name: i for i, name in enumerate(self.names)}
        design = indicators(sets, self.names)  # [trials, features]
        prior_mean = np.array([self._prior(name) for name in self.names])
        precision = design.T @ design / NOISE + np.eye(len(self.names)) / PRIOR
        self.covariance = np.linalg.inv(precision)
        self.mean = self.covariance @ (design.T @ values / NOISE + prior_mean / PRIOR)
        self._root = np.linalg.cholesky(self.covariance + 1e-9 * np.eye(len(self.names)))

    def draw(self, names: Sequence[str], rng: Generator) -> Floats:
        """Sample the value of each name from the posterior; unknown names are sampled from the prior."""
        known = self.mean + self._root @ rng.standard_normal(len(self.mean))
        fresh = rng.standard_normal(len(names)) * np.sqrt(PRIOR)
        values: Floats = fresh + [self._prior(name) for name in names]
        for i, name in enumerate(names):
            if name in self.column:
                values[i] = known[self.column[name]]
        return values

    def _prior(self, name: str) -> float:
        return DESCRIBED * self.described.get(name, 0.0)


def indicators(sets: Sequence[frozenset[str]], names: Sequence[str]) -> Floats:
    """Return a table [sets, names]: 1 where a set has the name, else 0."""
    column = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(sets), len(names)))
    for row, features in enumerate(sets):
        table[row, [column[name] for name in features if name in column]] = 1.0
    return table
