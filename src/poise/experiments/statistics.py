"""What a few runs can say: robust means and intervals that assume no distribution.

After Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
arXiv:2108.13264, section 4.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

RESAMPLES = 9_999
COVERAGE = 0.95


class Estimate(NamedTuple):
    """A value and its 95% interval; the bounds are infinite where there is one run alone."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: Float[np.ndarray, "*S runs"]) -> Float[np.ndarray, "*S"]:
    """Over the last axis, the mean without the lowest and the highest quarter (rounded down) of the runs."""
    from scipy.stats import trim_mean  # a second of imports

    return np.asarray(trim_mean(scores, 0.25, axis=-1))


def interquartile_estimate(scores: Float[np.ndarray, " runs"]) -> Estimate:
    """The interquartile mean, and the percentile interval of it over bootstrap samples of the runs."""
    value = float(interquartile_mean(scores))
    if len(scores) == 1:
        return Estimate(value, -np.inf, np.inf)
    low, high = np.percentile(interquartile_mean(_resampled(scores)), _ends())
    return Estimate(value, float(low), float(high))


def interquartile_band(
    scores: Float[np.ndarray, "runs points"],
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """``interquartile_estimate`` at every point of a curve: value, low, high. The runs are drawn whole."""
    value = interquartile_mean(scores.T)
    if len(scores) == 1:
        return value, np.full_like(value, -np.inf), np.full_like(value, np.inf)
    rows = _resampled(np.arange(len(scores)))[:1000]
    drawn = interquartile_mean(np.moveaxis(scores[rows], 1, -1))  # [resamples, points]
    low, high = np.percentile(drawn, _ends(), axis=0)
    return value, low, high


def probability_of_improvement(
    x: Float[np.ndarray, "*S n"], y: Float[np.ndarray, "*S m"]
) -> Float[np.ndarray, "*S"]:
    """How often a run of ``x`` scores higher than one of ``y``; a tie counts half.

    The Mann-Whitney statistic over n m.
    """
    pairs = np.sign(x[..., :, None] - y[..., None, :])
    return np.asarray(0.5 + 0.5 * pairs.mean(axis=(-2, -1)))


def improvement(
    pairs: Sequence[tuple[Float[np.ndarray, " _n"], Float[np.ndarray, " _m"]]],
) -> Estimate:
    """The probability of improvement, mean over tasks, each with the scores of both sides.

    Its interval: percentiles over bootstrap samples, drawn within each task and each side (stratified).
    """
    value = float(np.mean([probability_of_improvement(x, y) for x, y in pairs]))
    if any(len(side) == 1 for pair in pairs for side in pair):
        return Estimate(value, 0.0, 1.0)
    drawn = [
        probability_of_improvement(_resampled(x, (task, 0)), _resampled(y, (task, 1)))
        for task, (x, y) in enumerate(pairs)
    ]
    low, high = np.percentile(np.mean(drawn, axis=0), _ends())
    return Estimate(value, float(low), float(high))


def difference(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"]) -> Estimate:
    """Mean of ``x`` minus mean of ``y``, with the interval of Welch's t test (unequal deviations).

    Welch 1947, "The generalization of Student's problem when several different population variances are
    involved". SciPy's own warns where all runs of a side score the same, which is common here.
    """
    value = float(np.mean(x) - np.mean(y))
    if min(len(x), len(y)) == 1:
        return Estimate(value, -np.inf, np.inf)
    parts = [float(np.var(side, ddof=1)) / len(side) for side in (x, y)]
    if sum(parts) == 0:
        return Estimate(value, value, value)
    from scipy.special import stdtrit

    freedom = sum(parts) ** 2 / sum(p**2 / (len(side) - 1) for p, side in zip(parts, (x, y), strict=True))
    half = float(stdtrit(freedom, 0.5 + COVERAGE / 2)) * sum(parts) ** 0.5
    return Estimate(value, value - half, value + half)


def _resampled(scores: np.ndarray, stream: tuple[int, ...] = ()) -> np.ndarray:
    """Bootstrap samples, ``[RESAMPLES, runs]``: the same draws at every call."""
    rng = np.random.default_rng((0, *stream))
    return scores[rng.integers(len(scores), size=(RESAMPLES, len(scores)))]


def _ends() -> tuple[float, float]:
    return 50 * (1 - COVERAGE), 50 * (1 + COVERAGE)
