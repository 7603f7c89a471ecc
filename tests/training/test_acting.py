import itertools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poise.algo.encoders import ACTIVATIONS
from poise.algo.networks import Policy as PolicyNetwork
from poise.algo.normalize import Normalizer, RunningStats, normalize_obs
from poise.config import Activation, Normalize, Policy
from poise.spec import Spec
from poise.training import acting
from poise.training.acting import FEW_ROWS, ActionScale, Actor, quiet

SPEC = Spec.flat("probe", (3,), (2,), (-1.0, -2.0), (1.0, 6.0))
DISCRETE = Spec.flat("probe", (3,), num_choices=4)
OBS = np.random.default_rng(0).normal(2, 3, (7, 3)).astype(np.float32)
NORMALIZER = Normalizer(RunningStats.empty(3).merge(jnp.asarray(OBS)), RunningStats.empty())
KEY = jax.random.key(3)
NOISE = np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)


def in_jax(policy, config):
    obs = jax.vmap(lambda o: normalize_obs(NORMALIZER.obs, o, enabled=config.obs, bound=config.obs_bound))(
        jnp.asarray(OBS)
    )
    return jax.vmap(policy)(obs)


@pytest.mark.parametrize(
    ("std", "head_tanh", "activation", "normalize"),
    [
        *itertools.product(
            ["fixed", "predicted", "independent"], ["none", "mean", "all"], ["tanh", "relu"], [True, False]
        )
    ],
)
def test_acting_in_numpy_equals_the_networks(std, head_tanh, activation, normalize):
    config = Normalize(obs=normalize, obs_clip=10.0 if normalize else None)
    settings = Policy(std=std, head_tanh=head_tanh, activation=activation, init="uniform", std_init=0.4)
    policy = PolicyNetwork(SPEC, settings, key=jax.random.key(3))
    expected = in_jax(policy, config)
    actor = Actor(policy, NORMALIZER, config)
    np.testing.assert_allclose(actor.act(OBS), expected.mean, atol=1e-5)
    np.testing.assert_allclose(
        actor.act(OBS, NOISE[:, :2]), expected.mean + expected.std * NOISE[:, :2], atol=1e-5
    )


@pytest.mark.parametrize("activation", typing.get_args(Activation))
def test_activations_in_numpy_are_those_of_jax(activation):
    x = np.concatenate([np.linspace(-8, 8, 1601), [-1e4, -90, 90, 1e4]]).astype(np.float32)[None]
    written = x.copy()
    acting.ACTIVATIONS[activation](written, out=written)  # in place, as an Actor does
    np.testing.assert_allclose(written, ACTIVATIONS[activation](x), rtol=1e-5, atol=1e-6)
    assert written.dtype == np.float32
    policy = PolicyNetwork(SPEC, Policy(activation=activation, std_init=1.0, init="uniform"), key=KEY)
    expected = in_jax(policy, Normalize()).mean
    np.testing.assert_allclose(Actor(policy, NORMALIZER, Normalize()).act(OBS), expected, atol=1e-5)


def test_a_categorical_policy_acts_alike():
    policy = PolicyNetwork(DISCRETE, Policy(init="uniform"), key=jax.random.key(3))
    logits = np.asarray(in_jax(policy, Normalize()).logits)
    actor = Actor(policy, NORMALIZER, Normalize())
    np.testing.assert_array_equal(actor.act(OBS), logits.argmax(1))
    np.testing.assert_array_equal(actor.act(OBS, NOISE), (logits + NOISE).argmax(1))
    assert len(set(actor.act(OBS, 20 * NOISE).tolist())) > 1


def test_normalized_actions_are_rescaled_to_the_bounds_and_clipped():
    scale = ActionScale(SPEC, normalize=True)
    action = np.array([[0.0, 0.0], [1.0, -1.0], [3.0, 0.5]], np.float32)
    np.testing.assert_allclose(scale(action), [[0, 2], [1, -2], [1, 4]])


def test_plain_actions_are_only_clipped():
    scale = ActionScale(SPEC, normalize=False)
    np.testing.assert_allclose(scale(np.array([[0.5, 5.0], [3.0, 7.0]], np.float32)), [[0.5, 5], [1, 6]])


def test_a_dimension_without_finite_bounds_keeps_its_units():
    spec = Spec.flat("probe", (3,), (2,), (-np.inf, -2.0), (np.inf, 2.0))
    scale = ActionScale(spec, normalize=True)
    np.testing.assert_allclose(scale(np.array([[7.0, 0.5]], np.float32)), [[7.0, 1.0]])


@pytest.mark.parametrize("bound", [3.4028234663852886e38, 1e308, 1e9])
def test_bounds_that_no_one_can_mean_count_as_none(bound):
    spec = Spec.flat("probe", (3,), (2,), (-bound, 0.0), (bound, bound))
    scale = ActionScale(spec, normalize=True)
    action = np.array([[0.5, 7.0], [-0.5, -1.0]], np.float32)
    np.testing.assert_array_equal(scale(action), [[0.5, 7], [-0.5, 0]])


def test_an_action_that_overflows_when_rescaled_is_at_its_bound():
    spec = Spec.flat("probe", (3,), (1,), (-1e6,), (1e6,))
    largest = np.array([[3e38], [-3e38]], np.float32)
    with quiet():
        action = ActionScale(spec, normalize=True)(largest)
    np.testing.assert_array_equal(action, [[1e6], [-1e6]])


def test_the_scale_is_the_same_in_jax():
    action = np.array([0.3, -0.9], np.float32)
    for normalize in (True, False):
        scale = ActionScale(SPEC, normalize=normalize)
        np.testing.assert_array_equal(jax.jit(scale)(jnp.asarray(action)), scale(action))


def test_the_number_of_rows_does_not_change_an_action():
    """Few rows, many, and few again: what is repeated for them is that of the last call or not at all."""
    actor = Actor(
        PolicyNetwork(SPEC, Policy(std_init=1.0, init="uniform"), key=jax.random.key(3)),
        NORMALIZER,
        Normalize(),
    )
    obs = np.random.default_rng(0).standard_normal((FEW_ROWS + 1, SPEC.obs_size)).astype(np.float32)
    expected = actor.act(obs)
    for rows in (1, 5, 5, FEW_ROWS, 3):
        np.testing.assert_allclose(actor.act(obs[:rows]), expected[:rows], rtol=1e-5, atol=1e-6)
