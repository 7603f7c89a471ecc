import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.algo.advantages import gae


def column(*values):
    return jnp.array(values)[:, None]


def test_three_episodes_in_one_rollout_by_hand():
    # gamma = 1/2, lambda = 1/2. Two steps that end by termination, two by time limit, one unfinished.
    reward = column(1.0, 2.0, 3.0, 4.0, 5.0)
    value = column(1.0, 1.0, 1.0, 1.0, 1.0)
    next_value = column(2.0, 8.0, 2.0, 8.0, 2.0)
    terminated = column(False, True, False, False, False)
    truncated = column(False, False, False, True, False)
    # delta = 1 + 1 - 1, 2 - 1 (the 8 does not count), 3 + 1 - 1, 4 + 4 - 1 (the 8 counts), 5 + 1 - 1
    # A = delta + 1/4 of the next one, but not across an end
    expected = column(1 + 1 / 4, 1.0, 3 + 7 / 4, 7.0, 5.0)
    advantage = gae(reward, value, next_value, terminated, truncated, gamma=0.5, lam=0.5)
    np.testing.assert_allclose(advantage, expected)


def naive(reward, value, next_value, terminated, truncated, gamma, lam):
    """The double sum of the definition, one environment and one step at a time."""
    steps, envs = reward.shape
    advantage = np.zeros_like(reward)
    for n in range(envs):
        for t in range(steps):
            weight = 1.0
            for later in range(t, steps):
                after = 0.0 if terminated[later, n] else next_value[later, n]
                advantage[t, n] += weight * (reward[later, n] + gamma * after - value[later, n])
                if terminated[later, n] or truncated[later, n]:
                    break
                weight *= gamma * lam
    return advantage


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_equals_the_definition_on_random_rollouts(seed, gamma, lam):
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, 13, 4)).astype(np.float32)
    terminated, truncated = rng.random((2, 13, 4)) < 0.15
    got = gae(*map(jnp.asarray, (reward, value, next_value, terminated, truncated)), gamma=gamma, lam=lam)
    expected = naive(
        *(x.astype(float) for x in (reward, value, next_value)), terminated, truncated, gamma, lam
    )
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_permuted_environments_give_permuted_advantages():
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(3, 9, 5)).astype(np.float32)
    flags = rng.random((2, 9, 5)) < 0.2
    order = rng.permutation(5)
    plain = gae(*map(jnp.asarray, (*numbers, *flags)), gamma=0.9, lam=0.8)
    permuted = gae(*map(jnp.asarray, (*numbers[..., order], *flags[..., order])), gamma=0.9, lam=0.8)
    np.testing.assert_array_equal(permuted, plain[:, order])
