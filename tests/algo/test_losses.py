import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poise.algo.hyperparameters import Hyperparameters
from poise.algo.losses import (
    approximate_kl,
    clipped_surrogate,
    explained_variance,
    policy_loss,
    standardize,
    value_loss,
)
from poise.algo.networks import Policy as PolicyNetwork
from poise.algo.networks import ValueFunction
from poise.config import PPO, Config, Policy, Value
from poise.spec import Spec
from poise.types import Batch


def hyper(**ppo):
    """The settings of the first iteration, with these changes."""
    return Hyperparameters.of(Config(ppo=PPO(**ppo)).settled(SPEC), 0)


SPEC = Spec.flat("probe", (2,), (1,), (-1.0,), (1.0,))


def test_the_surrogate_on_a_grid_of_ratios():
    ratio = jnp.array([0.5, 0.8, 1.0, 1.2, 1.5])
    up = clipped_surrogate(ratio, jnp.full(5, 2.0), 0.2)  # never more than 1.2 A
    down = clipped_surrogate(ratio, jnp.full(5, -2.0), 0.2)  # never better than -0.8 |A|
    np.testing.assert_allclose(up, [1.0, 1.6, 2.0, 2.4, 2.4])
    np.testing.assert_allclose(down, [-1.6, -1.6, -2.0, -2.4, -3.0])


def test_the_surrogate_has_no_slope_where_it_is_clipped():
    slope = jax.vmap(jax.grad(lambda r, a: clipped_surrogate(r[None], a[None], 0.2)[0]))
    ratio = jnp.array([1.3, 0.7, 1.3, 0.7])
    advantage = jnp.array([1.0, -1.0, -1.0, 1.0])
    np.testing.assert_allclose(slope(ratio, advantage), [0.0, 0.0, -1.0, 1.0])


def test_the_approximate_kl_by_hand_and_its_sign():
    log_ratio = jnp.log(jnp.array([0.5, 2.0]))
    expected = ((0.5 - 1 - np.log(0.5)) + (2 - 1 - np.log(2))) / 2
    assert approximate_kl(log_ratio) == pytest.approx(expected, rel=1e-6)
    assert approximate_kl(jax.random.normal(jax.random.key(0), (1000,))) > 0
    assert approximate_kl(jnp.zeros(4)) == 0


def test_standardized_advantages_have_mean_0_and_deviation_1():
    got = standardize(jnp.array([1.0, 2.0, 3.0, 6.0]))
    np.testing.assert_allclose(got, (np.array([1, 2, 3, 6]) - 3) / np.std([1, 2, 3, 6]), rtol=1e-6)


def batch_for(policy, size=6):
    obs = jax.random.normal(jax.random.key(1), (size, 2))
    action = jax.random.normal(jax.random.key(2), (size, 1))
    log_prob = jax.vmap(lambda o, a: policy(o).log_prob(a))(obs, action)
    return Batch(obs, action, log_prob, jnp.arange(float(size)), jnp.zeros(size))


def test_with_the_acting_policy_the_loss_is_minus_the_mean_advantage_and_the_kl_0():
    policy = PolicyNetwork(SPEC, Policy(std_init=1.0), key=jax.random.key(0))
    loss, metrics = policy_loss(policy, batch_for(policy), hyper(normalize_advantage=False))
    assert loss == pytest.approx(-2.5, abs=1e-5)
    assert metrics.kl == pytest.approx(0, abs=1e-6)
    assert metrics.clip_fraction == 0


def test_the_entropy_bonus_lowers_the_loss_by_its_weight():
    policy = PolicyNetwork(SPEC, Policy(std_init=0.5), key=jax.random.key(0))
    plain, metrics = policy_loss(policy, batch_for(policy), hyper())
    bonus, _ = policy_loss(policy, batch_for(policy), hyper(entropy_coef=0.1))
    assert plain - bonus == pytest.approx(0.1 * float(metrics.entropy), rel=1e-4)


def test_the_value_loss_is_a_mean_over_rows_not_over_pairs():
    value = jax.tree.map(jnp.zeros_like, ValueFunction(SPEC, Value(), key=jax.random.key(0)))
    # constant predictions of 0 against targets 1 and 3: (1 + 9) / 2
    batch = Batch(jnp.zeros((2, 2)), jnp.zeros((2, 1)), jnp.zeros(2), jnp.zeros(2), jnp.array([1.0, 3.0]))
    assert value_loss(value, batch) == pytest.approx(5.0)


def test_explained_variance_of_a_perfect_a_constant_and_an_opposite_prediction():
    target = jnp.array([1.0, 2.0, 3.0])
    assert explained_variance(target, target) == pytest.approx(1)
    assert explained_variance(jnp.full(3, 7.0), target) == pytest.approx(0, abs=1e-6)
    assert explained_variance(-target, target) == pytest.approx(-3, rel=1e-5)
