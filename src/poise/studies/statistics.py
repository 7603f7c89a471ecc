"""Statistics of a few runs: robust means, differences, and intervals that hold with two runs as with twenty.

The quantities are those of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice", arXiv:2108.13264, section 4. Their bootstrap intervals are not used: called 95%, they cover 48%,
75% and 91% with 2, 3 and 5 runs. ``docs/reports.md`` says what the intervals here cover.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from poise.agents.intervals import mean_interval

COVERAGE = 0.95
MOST_RUNS = 10_000  # the largest answer of ``runs_needed``
ONE_SEED = "one seed"


class Estimate(NamedTuple):
    """A value and its 95% interval. Without an interval the bounds are infinite; ``no_interval`` says why."""

    value: float
    low: float
    high: float
    no_interval: str | None = None


def without_interval(value: float, reason: str) -> Estimate:
    """An estimate from runs whose spread is unknown, so that nothing can be said about other runs."""
    return Estimate(value, -np.inf, np.inf, reason)


def mean_estimate(scores: Float[np.ndarray, " runs"]) -> Estimate:
    """The mean with Student's interval; no interval if all runs score the same, as at a maximal return."""
    if len(scores) == 1:
        return without_interval(float(scores[0]), ONE_SEED)
    if _constant(scores):
        return without_interval(float(scores[0]), _equal(scores))
    value, low, high = (float(bound) for bound in mean_interval(scores))
    return Estimate(value, low, high)


def interquartile_mean(scores: Float[np.ndarray, "*S runs"]) -> Float[np.ndarray, "*S"]:
    """Over the last axis, the mean without the lowest and the highest quarter (rounded down) of the runs."""
    from scipy.stats import trim_mean  # a second of imports

    return np.asarray(trim_mean(scores, 0.25, axis=-1))


def interquartile_estimate(scores: Float[np.ndarray, " runs"]) -> Estimate:
    """The interquartile mean, and the interval of ``interquartile_band`` if there is one."""
    value, low, high = (float(bound[0]) for bound in interquartile_band(scores[:, None]))
    if np.isfinite(low):
        return Estimate(value, low, high)
    if len(scores) == 1:
        return without_interval(value, ONE_SEED)
    same = _equal(scores) if _constant(scores) else "the seeds in the middle have the same score"
    return without_interval(value, same)


def interquartile_band(
    scores: Float[np.ndarray, "runs points"],
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """The interquartile mean at every point of a curve: value, low, high.

    The interval of a trimmed mean: m -+ t s_w sqrt((n - 1) / (h (h - 1))), with s_w the deviation of the
    winsorized runs, h the runs that are left, t of h - 1 degrees of freedom. With fewer than 4 runs none is
    left out, and it is Student's. Infinite where s_w is 0. Tukey and McLaughlin 1963, "Less vulnerable
    confidence and significance procedures for location based on a single sample"; Yuen 1974, "The two-sample
    trimmed t for unequal population variances".
    """
    from scipy.special import stdtrit

    n, cut = len(scores), len(scores) // 4
    value = interquartile_mean(scores.T)
    if n == 1:
        return value, np.full_like(value, -np.inf), np.full_like(value, np.inf)
    left = n - 2 * cut
    ordered = np.sort(scores, axis=0)
    winsorized = np.clip(scores, ordered[cut], ordered[n - 1 - cut])
    error = np.std(winsorized, axis=0, ddof=1) * np.sqrt((n - 1) / (left * (left - 1)))
    half = np.where(np.ptp(winsorized, axis=0) > 0, stdtrit(left - 1, 0.5 + COVERAGE / 2) * error, np.inf)
    return value, value - half, value + half


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

    Its interval is put together from those of the tasks: Zou and Donner 2008, "Construction of confidence
    limits about effect measures: a general approach", equation 4.
    """
    value = float(np.mean([probability_of_improvement(x, y) for x, y in pairs]))
    if any(len(side) == 1 for pair in pairs for side in pair):
        return without_interval(value, ONE_SEED)
    each = [_improvement_interval(x, y) for x, y in pairs]
    below = sum((share - low) ** 2 for share, low, _ in each) ** 0.5 / len(each)
    above = sum((high - share) ** 2 for share, _, high in each) ** 0.5 / len(each)
    return Estimate(value, value - below, value + above)


def _improvement_interval(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"]
) -> tuple[float, float, float]:
    """The probability of improvement in one task, and its interval.

    Brunner and Munzel's variance and degrees of freedom, on the logit scale: Brunner and Munzel 2000, "The
    nonparametric Behrens-Fisher problem"; Perme and Manevski 2019, "Confidence intervals for the Mann-Whitney
    test". Where one side beats the other in every pair, or all tie, the variance is not known: there it is
    the exact binomial interval (Clopper and Pearson 1934) of as many pairs as the smaller side has runs, as
    wide as needed where the other side never varies.
    """
    from scipy.special import betaincinv, expit, logit, stdtrit

    pairs = 0.5 + 0.5 * np.sign(x[:, None] - y[None])
    share = float(pairs.mean())
    parts = [float(np.var(pairs.mean(axis=1 - side), ddof=1)) / pairs.shape[side] for side in (0, 1)]
    if not 0 < share < 1 or sum(parts) == 0:
        count = min(pairs.shape)
        wins, tail = share * count, 0.5 - COVERAGE / 2
        low = float(betaincinv(wins, count - wins + 1, tail)) if wins else 0.0
        high = float(betaincinv(wins + 1, count - wins, 1 - tail)) if wins < count else 1.0
        return share, low, high
    freedom = sum(parts) ** 2 / sum(
        part**2 / (count - 1) for part, count in zip(parts, pairs.shape, strict=True)
    )
    half = stdtrit(freedom, 0.5 + COVERAGE / 2) * sum(parts) ** 0.5 / (share * (1 - share))
    return share, float(expit(logit(share) - half)), float(expit(logit(share) + half))


def difference(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"]) -> Estimate:
    """Mean of ``x`` minus mean of ``y``, with the interval of Welch's t test (unequal variances).

    Welch 1947, "The generalization of Student's problem when several different population variances are
    involved". SciPy's own warns if all runs of a side score the same, which is common here. If both sides
    do so, there is no interval.
    """
    value = float(np.mean(x) - np.mean(y))
    if min(len(x), len(y)) == 1:
        return without_interval(value, ONE_SEED)
    if _constant(x) and _constant(y):
        return without_interval(value, "on each side all scores are equal")
    parts, freedom = _welch(x, y)
    from scipy.special import stdtrit

    half = float(stdtrit(freedom, 0.5 + COVERAGE / 2)) * sum(parts) ** 0.5
    return Estimate(value, value - half, value + half)


def p_value(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"]) -> float:
    """The p-value of Welch's two-sided t test for equal means; 1 if a side has a single value.

    It is below 0.05 if the interval of ``difference`` excludes 0. If all values of each side are equal, t is
    not defined, and p is that of the permutation test: two of all ways to divide the values.
    """
    if min(len(x), len(y)) == 1:
        return 1.0
    if _constant(x) and _constant(y):
        return 1.0 if x[0] == y[0] else 2 / math.comb(len(x) + len(y), len(x))
    parts, freedom = _welch(x, y)
    distance = abs(float(np.mean(x) - np.mean(y)))
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -distance / sum(parts) ** 0.5))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for several tests: each is below 0.05 where Holm's procedure rejects.

    Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def runs_needed(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"]) -> int | None:
    """Runs of each side with which a difference of this size is detected in 4 of 5 experiments.

    The smallest n >= 2 with n >= 2 (t(0.975) + t(0.8))^2 s^2 / d^2, t of 2 n - 2 degrees of freedom, s^2 the
    mean of both variances: the power of a two-sample t test, near enough (Cohen 1988, "Statistical Power
    Analysis for the Behavioral Sciences", section 2.4). None if there is no difference, or a
    single run on one side.
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
    left, right = (float(np.var(side, ddof=1)) / len(side) for side in (x, y))
    shares = left**2 / (len(x) - 1) + right**2 / (len(y) - 1)
    return (left, right), (left + right) ** 2 / shares


def _constant(scores: Float[np.ndarray, " runs"]) -> bool:
    return bool(np.ptp(scores) == 0)  # the variance of equal values need not be 0 in floating point


def _equal(scores: Float[np.ndarray, " runs"]) -> str:
    return f"all {len(scores)} seeds have the same score"
