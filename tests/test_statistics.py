import itertools
import math

import numpy as np
import pytest
import scipy.stats

from poise.experiments.statistics import (
    difference,
    holm,
    improvement,
    interquartile_band,
    interquartile_estimate,
    interquartile_mean,
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


def test_its_interval_is_scipys_percentile_bootstrap():
    scores = np.random.default_rng(1).normal(size=12)
    estimate = interquartile_estimate(scores)
    theirs = scipy.stats.bootstrap(
        (scores,),
        lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis),
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    # both draw 9,999 samples of their own: the bounds differ by what chance leaves
    assert (estimate.low, estimate.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)
    assert estimate == interquartile_estimate(scores)
    assert estimate.low < estimate.value < estimate.high


def test_the_interval_covers_the_true_value_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        estimate = interquartile_estimate(rng.normal(size=20))
        covered += estimate.low <= 0 <= estimate.high
    assert 0.86 < covered / 200 < 0.99


def test_one_run_has_no_interval():
    assert interquartile_estimate(np.array([3.0])) == (3.0, -math.inf, math.inf)
    assert improvement([(np.array([3.0]), np.array([1.0, 2.0]))]) == (1.0, 0.0, 1.0)
    assert difference(np.array([3.0]), np.array([1.0, 2.0])) == (1.5, -math.inf, math.inf)


def test_the_band_of_a_curve_is_the_estimate_at_each_point():
    scores = np.random.default_rng(3).normal(size=(8, 3))
    value, low, high = interquartile_band(scores)
    for point in range(3):
        alone = interquartile_estimate(scores[:, point])
        assert value[point] == pytest.approx(alone.value)
        assert (low[point], high[point]) == pytest.approx((alone.low, alone.high), abs=0.1)


def test_the_probability_of_improvement_by_hand():
    # of the six pairs 3 beats 1 and 2, 2 beats 1 and ties with 2, 0 beats none: 3.5 of 6
    assert probability_of_improvement(np.array([3.0, 2, 0]), np.array([1.0, 2])) == pytest.approx(3.5 / 6)


def test_the_probability_of_improvement_is_mann_whitneys_u():
    rng = np.random.default_rng(4)
    x, y = rng.integers(0, 5, size=9).astype(float), rng.integers(0, 5, size=7).astype(float)
    u = scipy.stats.mannwhitneyu(x, y).statistic
    assert probability_of_improvement(x, y) == pytest.approx(u / 63)
    assert probability_of_improvement(y, x) == pytest.approx(1 - u / 63)


def test_improvement_is_the_mean_over_tasks_with_an_interval():
    rng = np.random.default_rng(5)
    pairs = [(rng.normal(1, 1, 10), rng.normal(0, 1, 10)), (rng.normal(0, 1, 5), rng.normal(0, 1, 8))]
    estimate = improvement(pairs)
    assert estimate.value == pytest.approx(np.mean([probability_of_improvement(*pair) for pair in pairs]))
    theirs = scipy.stats.bootstrap(
        (*pairs[0], *pairs[1]),
        lambda a, b, c, d: np.mean([probability_of_improvement(a, b), probability_of_improvement(c, d)]),
        method="percentile",
        vectorized=False,
        n_resamples=2000,
        rng=np.random.default_rng(6),
    ).confidence_interval
    assert (estimate.low, estimate.high) == pytest.approx((theirs.low, theirs.high), abs=0.04)


def test_sides_that_never_differ_are_certain():
    same = np.full(5, 1000.0)
    assert improvement([(same, same)]) == (0.5, 0.5, 0.5)
    assert difference(same, same) == (0.0, 0.0, 0.0)


def test_the_difference_has_welchs_interval_by_hand():
    x, y = np.array([1.0, 2.0, 3.0]), np.array([0.0, 4.0])
    # variances 1 and 8: the error is sqrt(1/3 + 8/2), the degrees of freedom those of Welch and Satterthwaite
    error = math.sqrt(1 / 3 + 4)
    freedom = error**4 / ((1 / 3) ** 2 / 2 + 4**2 / 1)
    half = scipy.stats.t.ppf(0.975, freedom) * error
    assert difference(x, y) == pytest.approx((0.0, -half, half))


def test_the_difference_has_scipys_interval():
    rng = np.random.default_rng(7)
    x, y = rng.normal(3, 1, 9), rng.normal(0, 4, 6)
    theirs = scipy.stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    assert difference(x, y) == pytest.approx((np.mean(x) - np.mean(y), theirs.low, theirs.high))
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
    assert p_value(np.array([1.0, 1.0]), np.array([2.0, 2.0])) == 0


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
