import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.algo.normalize import RunningStats, discounted_return, normalize_obs, normalize_reward
from poise.config import Normalize


def scaled_obs(stats, obs, config):
    return normalize_obs(stats, obs, enabled=config.obs, bound=config.obs_bound)


def scaled_reward(stats, reward, config):
    return normalize_reward(stats, reward, enabled=config.reward, bound=config.reward_bound)


@settings(deadline=None, max_examples=15)
@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=6), center=st.floats(-50, 50))
def test_merging_pieces_equals_numpy_over_the_whole(cuts, center):
    data = np.random.default_rng(sum(cuts)).normal(center, 3, size=(sum(cuts), 2)).astype(np.float32)
    stats = RunningStats.empty(2)
    for piece in np.split(data, np.cumsum(cuts)[:-1]):
        stats = stats.merge(jnp.asarray(piece))
    assert stats.count == len(data)
    np.testing.assert_allclose(stats.mean, data.mean(0, dtype=float), atol=1e-4)
    np.testing.assert_allclose(stats.var, data.var(0, dtype=float), rtol=1e-3, atol=1e-4)


def test_before_the_first_sample_nothing_is_changed_but_clipped():
    obs = jnp.array([3.0, -11.0])
    np.testing.assert_allclose(scaled_obs(RunningStats.empty(2), obs, Normalize()), [3.0, -10.0])


def test_observations_by_hand():
    # mean 2 and 0, variance 1 and 4
    stats = RunningStats(jnp.array(2.0), jnp.array([2.0, 0.0]), jnp.array([2.0, 8.0]))
    obs = jnp.array([5.0, 100.0])
    np.testing.assert_allclose(scaled_obs(stats, obs, Normalize(obs_clip=4.0)), [3.0, 4.0], rtol=1e-6)
    np.testing.assert_allclose(scaled_obs(stats, obs, Normalize(obs_clip=None)), [3.0, 50.0], rtol=1e-6)
    np.testing.assert_allclose(scaled_obs(stats, obs, Normalize(obs=False, obs_clip=6.0)), [5.0, 6.0])


def test_rewards_are_scaled_and_not_shifted():
    stats = RunningStats(jnp.array(2.0), jnp.array(7.0), jnp.array(8.0))  # variance 4
    reward = jnp.array([[1.0, -30.0]])
    np.testing.assert_allclose(scaled_reward(stats, reward, Normalize()), [[0.5, -15.0]], rtol=1e-6)
    bound = Normalize(reward_clip=10.0)
    np.testing.assert_allclose(scaled_reward(stats, reward, bound), [[0.5, -10.0]], rtol=1e-6)
    off = Normalize(reward=False, reward_clip=None)
    np.testing.assert_array_equal(scaled_reward(stats, reward, off), reward)


def test_the_running_return_begins_anew_after_an_end():
    reward = jnp.array([[1.0], [1.0], [1.0], [1.0]])
    done = jnp.array([[False], [True], [False], [False]])
    last, returns = discounted_return(jnp.array([4.0]), reward, done, 0.5)
    np.testing.assert_allclose(returns[:, 0], [3.0, 2.5, 1.0, 1.5])
    assert last[0] == pytest.approx(1.5)


def test_rewards_that_come_only_at_the_end_stay_apart():
    """1 and 3 after 1,000 steps, in turn: by hand, their ratio is 3 before and after."""
    reward = jnp.zeros((1000, 20)).at[-1].set(jnp.tile(jnp.array([1.0, 3.0]), 10))
    done = jnp.zeros((1000, 20), bool).at[-1].set(True)
    _, returns = discounted_return(jnp.zeros(20), reward, done, 0.99)
    stats = RunningStats.empty().merge(returns.reshape(-1))
    last = scaled_reward(stats, reward, Normalize())[-1]
    scale = np.sqrt(np.var([0.0] * 999 * 20 + [1.0, 3.0] * 10))  # the return is 0 at all other steps
    np.testing.assert_allclose(last, reward[-1] / scale, rtol=1e-3)
    assert float(last[1] / last[0]) == pytest.approx(3)
    np.testing.assert_allclose(scaled_reward(stats, reward, Normalize(reward_clip=10.0))[-1], 10)


def test_without_normalization_there_is_no_bound_unless_one_is_given():
    stats = RunningStats(jnp.array(2.0), jnp.array([2.0, 0.0]), jnp.array([2.0, 8.0]))
    obs, reward = jnp.array([50.0, 200.0]), jnp.array([[15.0, 40.0]])
    np.testing.assert_array_equal(scaled_obs(stats, obs, Normalize(obs=False)), obs)
    np.testing.assert_array_equal(
        scaled_reward(RunningStats.empty(), reward, Normalize(reward=False)), reward
    )
    bound = Normalize(obs=False, obs_clip=60.0, reward=False, reward_clip=20.0)
    np.testing.assert_array_equal(scaled_obs(stats, obs, bound), [50.0, 60.0])
    np.testing.assert_array_equal(scaled_reward(RunningStats.empty(), reward, bound), [[15.0, 20.0]])
