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
MOST_RUNS = 10_000  # beyond which nobody wants to know how many


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
    parts, freedom = _welch(x, y)
    if sum(parts) == 0:
        return Estimate(value, value, value)
    from scipy.special import stdtrit

    half = float(stdtrit(freedom, 0.5 + COVERAGE / 2)) * sum(parts) ** 0.5
    return Estimate(value, value - half, value + half)


def p_value(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"]) -> float:
    """Of Welch's two-sided t test that both have the same mean; 1 where a side has one value alone.

    It is below 0.05 where the interval of ``difference`` leaves out 0.
    """
    if min(len(x), len(y)) == 1:
        return 1.0
    parts, freedom = _welch(x, y)
    distance = abs(float(np.mean(x) - np.mean(y)))
    if sum(parts) == 0:
        return 1.0 if distance == 0 else 0.0
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -distance / sum(parts) ** 0.5))


def holm(p_values: Sequence[float]) -> list[float]:
    """These p-values corrected for being several: each is below 0.05 where Holm's procedure rejects.

    Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def runs_needed(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"]) -> int | None:
    """Runs of each side with which a difference of means as seen would be found in 4 of 5 tries.

    The smallest n >= 2 with n >= 2 (t(0.975) + t(0.8))^2 s^2 / d^2, t of 2 n - 2 degrees of freedom, s^2 the
    mean of both variances: the power of a two-sample t test, near enough (Cohen 1988, "Statistical Power
    Analysis for the Behavioral Sciences", section 2.4). None where there is no difference, or one run of a
    side alone.
    """
    distance = float(np.mean(x) - np.mean(y))
    if min(len(x), len(y)) == 1 or distance == 0:
        return None
    from scipy.special import stdtrit

    ratio = float(np.var(x, ddof=1) + np.var(y, ddof=1)) / distance**2  # 2 s^2 / d^2
    count = 2
    while count < ratio * (stdtrit(2 * count - 2, 0.975) + stdtrit(2 * count - 2, 0.8)) ** 2:
        count = max(count + 1, int(count * 1.02))
        if count > MOST_RUNS:
            return None
    return count


def _welch(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"]) -> tuple[tuple[float, float], float]:
    """The variance of each mean, and the degrees of freedom of their difference."""
    one, other = (float(np.var(side, ddof=1)) / len(side) for side in (x, y))
    if one + other == 0:
        return (one, other), float("inf")
    shares = one**2 / (len(x) - 1) + other**2 / (len(y) - 1)
    return (one, other), (one + other) ** 2 / shares


def _resampled(scores: np.ndarray, stream: tuple[int, ...] = ()) -> np.ndarray:
    """Bootstrap samples, ``[RESAMPLES, runs]``: the same draws at every call."""
    rng = np.random.default_rng((0, *stream))
    return scores[rng.integers(len(scores), size=(RESAMPLES, len(scores)))]


def _ends() -> tuple[float, float]:
    return 50 * (1 - COVERAGE), 50 * (1 + COVERAGE)
