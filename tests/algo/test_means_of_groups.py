"""Means over groups, by hand and against all rows at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poise.algo.groups import (
    gather,
    group_index,
    mean_of_groups,
    moments_of_groups,
    own_key,
    variance_of_groups,
)
from poise.algo.losses import explained_variance, standardize
from poise.algo.normalize import RunningStats
from poise.placement.mesh import Layout

ROWS = np.random.default_rng(0).normal(3, 2, (4, 6)).astype(np.float32)  # 4 groups of 6 rows


def of_groups(function, devices=2):
    """``function`` of the rows of each group."""
    layout = Layout.of(4, jax.devices()[:devices])

    def one(shared, rows):
        return shared, rows, function(rows)

    return layout.of_all_groups(one)(np.zeros(()), ROWS.reshape(-1))[2]


@pytest.mark.parametrize("devices", [1, 2])
def test_the_groups_are_gathered_in_their_order(devices):
    every = of_groups(lambda rows: gather(rows), devices)
    for each in np.asarray(every):  # the same for every group
        np.testing.assert_array_equal(each, ROWS)
    assert of_groups(lambda rows: group_index(), devices).tolist() == [0, 1, 2, 3]


def test_the_mean_by_hand():
    means = of_groups(lambda rows: mean_of_groups(rows.max(), 4))
    assert np.asarray(means) == pytest.approx([ROWS.max(axis=1).mean()] * 4)
    assert mean_of_groups(jnp.array(7.0), 1) == 7.0


def test_moments_are_those_of_all_rows():
    mean, m2 = of_groups(lambda rows: moments_of_groups(rows, 4))
    assert float(mean[0]) == pytest.approx(ROWS.mean(), rel=1e-6)
    assert float(m2[0]) == pytest.approx(((ROWS - ROWS.mean()) ** 2).sum(), rel=1e-6)
    assert float(of_groups(lambda rows: variance_of_groups(rows, 4))[0]) == pytest.approx(
        ROWS.var(), rel=1e-6
    )


def test_what_uses_them_is_as_for_all_rows_at_once():
    flat = jnp.asarray(ROWS.reshape(-1))
    found = np.asarray(of_groups(lambda rows: standardize(rows, 4)))
    np.testing.assert_allclose(found.reshape(-1), standardize(flat), rtol=1e-5, atol=1e-6)
    explained = of_groups(lambda rows: explained_variance(rows * 0.9, rows, 4))
    assert float(explained[0]) == pytest.approx(float(explained_variance(flat * 0.9, flat)), rel=1e-5)
    stats = RunningStats.empty().merge(jnp.array([1.0, 5.0]))
    merged = of_groups(lambda rows: stats.merge(rows, 4))
    assert [float(x[0]) for x in jax.tree.leaves(merged)] == pytest.approx(
        [float(x) for x in jax.tree.leaves(stats.merge(flat))], rel=1e-6
    )


def test_each_group_draws_with_a_key_of_its_own():
    key = jax.random.key(3)
    drawn = of_groups(lambda rows: jax.random.bits(own_key(key, 4)))
    assert len(set(np.asarray(drawn).tolist())) == 4
    assert own_key(key, 1) is key
