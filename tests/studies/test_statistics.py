import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from scipy.special import logit

from poise.agents.intervals import mean_interval
from poise.studies.statistics import (
    difference,
    holm,
    improvement,
    interquartile_band,
    interquartile_estimate,
    interquartile_mean,
    mean_estimate,
    p_value,
    probability_of_improvement,
    runs_needed,
)


def test_the_interquartile_mean_by_hand():
    # of eight, two at each end are left out: (3 + 4 + 5 + 6) / 4
    assert interquartile_mean(np.array([100.0, 4, 3, 5, 6, 2, -50, 7])) == pytest.approx(4.5)
    # of five, one at each end
    assert interquartile_mean(np.array([1.0, 2, 3, 4, 1000])) == pytest.approx(3)
    # of three, none
    assert interquartile_mean(np.array([1.0, 2, 6])) == pytest.approx(3)


def test_the_interquartile_mean_is_that_of_the_sorted_middle():
    scores = np.random.default_rng(0).normal(size=(7, 20))
    middle = np.sort(scores, axis=1)[:, 5:15].mean(axis=1)
    np.testing.assert_allclose(interquartile_mean(scores), middle)


def test_its_interval_by_hand():
    # of five one is left out at each end; the winsorized are 2, 2, 3, 4, 4: s_w = 1, and h = 3
    estimate = interquartile_estimate(np.array([-50.0, 2, 3, 4, 99]))
    half = scipy.stats.t.ppf(0.975, 2) * math.sqrt(4 / (3 * 2))
    assert estimate == pytest.approx((3, 3 - half, 3 + half, None))


def test_its_interval_of_two_and_three_seeds_is_students():
    for n in (2, 3):
        scores = np.random.default_rng(n).normal(size=n)
        theirs = scipy.stats.ttest_1samp(scores, 0).confidence_interval(0.95)
        assert interquartile_estimate(scores)[:3] == pytest.approx((scores.mean(), theirs.low, theirs.high))
        assert mean_estimate(scores) == pytest.approx(interquartile_estimate(scores))


def test_one_run_has_no_interval():
    nothing = -math.inf, math.inf, "one seed"
    assert mean_estimate(np.array([3.0])) == (3.0, *nothing)
    assert interquartile_estimate(np.array([3.0])) == (3.0, *nothing)
    assert improvement([(np.array([3.0]), np.array([1.0, 2.0]))]) == (1.0, *nothing)
    assert difference(np.array([3.0]), np.array([1.0, 2.0])) == (1.5, *nothing)


def test_equal_runs_have_no_interval_and_the_reason_is_said():
    for score in (1000.0, 0.1):  # the variance of 0.1, 0.1, 0.1 is not 0 in floating point
        same = np.full(3, score)
        for estimate in (mean_estimate(same), interquartile_estimate(same)):
            assert estimate == pytest.approx((score, -math.inf, math.inf, "all 3 seeds have the same score"))
        assert difference(same, same)[1:] == (-math.inf, math.inf, "on each side all scores are equal")
    most = interquartile_estimate(np.array([1000.0, 1000, 1000, 1000, 148]))
    assert most == (1000.0, -math.inf, math.inf, "the seeds in the middle have the same score")


def test_the_band_of_a_curve_is_the_estimate_at_each_point():
    scores = np.random.default_rng(3).normal(size=(8, 4))
    scores[:, 3] = 1000
    value, low, high = interquartile_band(scores)
    for point in range(4):
        alone = interquartile_estimate(scores[:, point])
        assert (value[point], low[point], high[point]) == pytest.approx(alone[:3])


def test_the_probability_of_improvement_by_hand():
    # of the six pairs 3 beats 1 and 2, 2 beats 1 and ties with 2, 0 beats none: 3.5 of 6
    assert probability_of_improvement(np.array([3.0, 2, 0]), np.array([1.0, 2])) == pytest.approx(3.5 / 6)


def test_the_probability_of_improvement_is_mann_whitneys_u():
    rng = np.random.default_rng(4)
    x, y = rng.integers(0, 5, size=9).astype(float), rng.integers(0, 5, size=7).astype(float)
    u = scipy.stats.mannwhitneyu(x, y).statistic
    assert probability_of_improvement(x, y) == pytest.approx(u / 63)
    assert probability_of_improvement(y, x) == pytest.approx(1 - u / 63)


def test_the_interval_of_an_improvement_has_brunner_and_munzels_error():
    rng = np.random.default_rng(5)
    x, y = rng.normal(1, 1, 10), rng.normal(0, 2, 7)
    theirs = scipy.stats.brunnermunzel(y, x)
    share, low, high, _ = improvement([(x, y)])
    half = (logit(high) - logit(low)) / 2 * share * (1 - share)  # t times the error of the share
    assert logit(high) + logit(low) == pytest.approx(2 * logit(share))
    # their statistic is (share - 0.5) / error, of the same degrees of freedom
    error = (share - 0.5) / theirs.statistic
    p = lambda freedom: 2 * scipy.stats.t.sf(theirs.statistic, freedom)  # noqa: E731
    freedom = scipy.optimize.brentq(lambda f: p(f) - theirs.pvalue, 1, 100)
    assert half == pytest.approx(scipy.stats.t.ppf(0.975, freedom) * error)


def test_a_side_that_wins_every_pair_has_the_exact_binomial_interval():
    for n, m in ((2, 2), (3, 5), (10, 10)):
        estimate = improvement([(1.0 + np.arange(n), -np.arange(m) * 1.0)])
        exact = scipy.stats.binomtest(min(n, m), min(n, m)).proportion_ci(0.95, "exact")
        assert estimate == pytest.approx((1.0, exact.low, 1.0, None))
        assert improvement([(-np.arange(n) * 1.0, 1.0 + np.arange(m))])[:3] == pytest.approx(
            (0.0, 0.0, 1 - exact.low)
        )
    same = np.full(4, 1000.0)
    exact = scipy.stats.binomtest(2, 4).proportion_ci(0.95, "exact")
    assert improvement([(same, same)]) == pytest.approx((0.5, exact.low, exact.high, None))


def test_improvement_over_tasks_is_their_mean_with_an_interval_put_together():
    rng = np.random.default_rng(5)
    pairs = [(rng.normal(1, 1, 10), rng.normal(0, 1, 10)), (rng.normal(0, 1, 5), rng.normal(0, 1, 8))]
    one, two = (improvement([pair]) for pair in pairs)
    both = improvement(pairs)
    assert both.value == pytest.approx((one.value + two.value) / 2)
    assert both.value - both.low == pytest.approx(math.hypot(one.value - one.low, two.value - two.low) / 2)
    assert both.high - both.value == pytest.approx(math.hypot(one.high - one.value, two.high - two.value) / 2)


def test_the_difference_has_welchs_interval_by_hand():
    x, y = np.array([1.0, 2.0, 3.0]), np.array([0.0, 4.0])
    # variances 1 and 8: the error is sqrt(1/3 + 8/2), the degrees of freedom those of Welch and Satterthwaite
    error = math.sqrt(1 / 3 + 4)
    freedom = error**4 / ((1 / 3) ** 2 / 2 + 4**2 / 1)
    half = scipy.stats.t.ppf(0.975, freedom) * error
    assert difference(x, y) == pytest.approx((0.0, -half, half, None))


def test_the_difference_has_scipys_interval():
    rng = np.random.default_rng(7)
    x, y = rng.normal(3, 1, 9), rng.normal(0, 4, 6)
    theirs = scipy.stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    assert difference(x, y) == pytest.approx((np.mean(x) - np.mean(y), theirs.low, theirs.high, None))
    assert difference(np.full(3, 1000.0), y).high < math.inf


def test_the_p_value_is_welchs_and_agrees_with_the_interval():
    rng = np.random.default_rng(0)
    for n, m, shift in itertools.product((2, 5, 9), (3, 8), (0.0, 1.0, 2.0)):
        x, y = rng.normal(shift, 1, n), rng.normal(0, 2, m)
        p = p_value(x, y)
        assert p == pytest.approx(scipy.stats.ttest_ind(x, y, equal_var=False).pvalue)
        d = difference(x, y)
        assert (p < 0.05) == (not d.low <= 0 <= d.high)
    assert p_value(np.array([1.0]), y) == 1
    assert p_value(np.array([1.0, 1.0]), np.array([1.0, 1.0])) == 1


def test_two_sides_without_spread_differ_as_far_as_a_permutation_says():
    for n in (2, 3, 5):
        x, y = np.full(n, 1.0), np.full(n, 2.0)
        theirs = scipy.stats.permutation_test(
            (x, y), lambda a, b, axis: a.mean(axis) - b.mean(axis), n_resamples=math.inf
        )
        assert p_value(x, y) == pytest.approx(theirs.pvalue)
    assert p_value(np.full(3, 1.0), np.full(3, 2.0)) == pytest.approx(0.1)  # three seeds decide nothing


def test_holms_correction_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]


def test_so_many_runs_find_such_a_difference_in_four_of_five_tries():
    # by hand: 2 s^2 / d^2 = 2; with 32 degrees (t(0.975) + t(0.8))^2 is 8.36, and 16.7 <= 17
    one = np.array([-1.0, 0.0, 1.0])
    assert runs_needed(one, one + 1) == 17
    rng = np.random.default_rng(0)
    found = [p_value(rng.normal(0, 1, 17), rng.normal(1, 1, 17)) < 0.05 for _ in range(4000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)
    assert runs_needed(one, one) is None
    assert runs_needed(one, np.array([3.0])) is None
    assert runs_needed(one, one + 1e-9) is None


SEEDS = (2, 3, 5, 10, 20)


def coverage(estimates, true):
    return np.mean([estimate.low <= true <= estimate.high for estimate in estimates])


@pytest.mark.parametrize("n", SEEDS)
def test_intervals_cover_normal_scores_as_often_as_they_say(n):
    """95% is claimed; of 20,000 and of 1,000 draws chance leaves 0.3% and 1.4% (two errors)."""
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, 20_000))
    _, low, high = mean_interval(x)
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(0.95, abs=0.005)
    _, low, high = interquartile_band(x)
    assert 0.928 < np.mean((low <= 0) & (high >= 0)) < 0.96
    for scale in (1, 4):
        sides = [(scale * rng.normal(size=n), rng.normal(size=n)) for _ in range(1_000)]
        assert 0.93 < coverage((difference(*pair) for pair in sides), 0) <= 0.99
        assert coverage((improvement([pair]) for pair in sides), 0.5) > 0.94


def scores_of(kind, rng, shape):
    """What returns look like: skewed; with seeds that fail; the same, where most have the highest return."""
    fails = rng.random(shape) < 0.2
    if kind == "skewed":
        return np.exp(rng.normal(size=shape))
    if kind == "fail":
        return np.where(fails, rng.normal(100, 50, shape), rng.normal(1000, 30, shape))
    return np.where(fails, 0.0, 1000.0)


@pytest.mark.parametrize("n", SEEDS)
@pytest.mark.parametrize("kind", ["skewed", "fail", "tied", "one side constant"])
def test_the_interval_of_an_improvement_covers_whatever_the_scores_are(kind, n):
    rng = np.random.default_rng(n)
    if kind == "one side constant":
        draw, true = (lambda: (2.0 * (rng.random(n) < 0.9), np.ones(n))), 0.9
    else:
        draw, true = (lambda: (scores_of(kind, rng, n), scores_of(kind, rng, n))), 0.5
    assert coverage((improvement([draw()]) for _ in range(500)), true) > 0.935


@pytest.mark.parametrize("n", SEEDS)
def test_the_interval_of_an_improvement_covers_where_one_side_mostly_wins(n):
    rng = np.random.default_rng(n)
    for shift in (1, 2, 3):
        true = scipy.stats.norm.cdf(shift / 2**0.5)
        pairs = ([(rng.normal(shift, 1, n), rng.normal(0, 1, n))] for _ in range(1_000))
        assert coverage((improvement(pair) for pair in pairs), true) > 0.935


def test_the_interval_over_tasks_covers():
    rng = np.random.default_rng(0)
    shifts = (0.0, 1.0, 3.0)
    true = np.mean([scipy.stats.norm.cdf(shift / 2**0.5) for shift in shifts])
    for n in (2, 5):
        drawn = ([(rng.normal(s, 1, n), rng.normal(0, 1, n)) for s in shifts] for _ in range(1_000))
        assert coverage((improvement(pairs) for pairs in drawn), true) > 0.94


@pytest.mark.parametrize(("kind", "least"), [("skewed", 0.81), ("fail", 0.47)])
def test_the_interval_of_a_mean_covers_less_where_scores_are_skewed_as_the_docs_say(kind, least):
    """No interval of few seeds can know of failures that none of them had."""
    rng = np.random.default_rng(0)
    true = scores_of(kind, rng, 400_000).mean()
    covered = []
    for n in SEEDS:
        _, low, high = mean_interval(scores_of(kind, rng, (n, 20_000)))
        covered.append(np.mean((low <= true) & (true <= high)))
    assert least < min(covered) < least + 0.04
    assert covered[-1] > 0.86
