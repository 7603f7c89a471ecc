import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poise.algo.distributions import Categorical
from poise.algo.encoders import ACTIVATIONS
from poise.algo.networks import Policy as PolicyNetwork
from poise.algo.networks import ValueFunction
from poise.config import Policy, Value
from poise.spec import Spec

SPEC = Spec.flat("probe", (3,), (2,), (-1.0, -1.0), (1.0, 1.0))
DISCRETE = Spec.flat("probe", (3,), num_choices=4)
OBS = jnp.array([0.5, -2.0, 1.0])
KEY = jax.random.key(0)


def test_orthogonal_weights_have_orthogonal_columns_of_the_gain():
    mlp = PolicyNetwork(SPEC, Policy(std_init=1.0), key=KEY).mlp
    np.testing.assert_allclose(mlp.weight[1].T @ mlp.weight[1], 2 * np.eye(64), atol=1e-5)
    np.testing.assert_allclose(mlp.weight[0] @ mlp.weight[0].T, 2 * np.eye(3), atol=1e-5)
    np.testing.assert_allclose(mlp.weight[2].T @ mlp.weight[2], 1e-4 * np.eye(2), atol=1e-9)
    assert not any(bias.any() for bias in mlp.bias)


@pytest.mark.parametrize(("activation", "square"), [("selu", 1), ("gelu", 2), ("elu", 2)])
def test_the_gain_of_a_hidden_layer_follows_from_its_activation(activation, square):
    mlp = PolicyNetwork(SPEC, Policy(std_init=1.0, activation=activation), key=KEY).mlp
    np.testing.assert_allclose(mlp.weight[1].T @ mlp.weight[1], square * np.eye(64), atol=1e-5)


def test_deep_layers_of_selu_keep_mean_0_and_variance_1():
    """With the gain of the other activations, sqrt 2, the variance would be 3."""
    hidden = (256,) * 8
    mlp = PolicyNetwork(SPEC, Policy(std_init=1.0, activation="selu", hidden=hidden), key=KEY).mlp
    x = jax.random.normal(KEY, (500, 256))
    for weight in mlp.weight[1:-1]:
        x = ACTIVATIONS["selu"](x @ weight)
    assert abs(float(x.mean())) < 0.1
    assert float(x.var()) == pytest.approx(1, abs=0.15)


def test_the_last_layer_of_the_value_function_has_gain_1():
    last = ValueFunction(SPEC, Value(), key=KEY).mlp.weight[2]
    assert float(jnp.sum(last**2)) == pytest.approx(1, rel=1e-5)


def test_uniform_weights_stay_within_one_over_root_inputs():
    mlp = PolicyNetwork(SPEC, Policy(std_init=1.0, init="uniform"), key=KEY).mlp
    assert 0.9 / 8 < float(jnp.abs(mlp.weight[1]).max()) <= 1 / 8


def test_the_mlp_by_hand():
    mlp = PolicyNetwork(SPEC, Policy(std_init=1.0, hidden=(4,)), key=KEY).mlp
    w, b = [np.asarray(x) for x in mlp.weight], [np.asarray(x) for x in mlp.bias]
    expected = np.tanh(OBS @ w[0] + b[0]) @ w[1] + b[1]
    np.testing.assert_allclose(mlp(OBS), expected, rtol=1e-5)
    relu = PolicyNetwork(SPEC, Policy(std_init=1.0, hidden=(4,), activation="relu"), key=KEY).mlp
    np.testing.assert_allclose(relu(OBS), np.maximum(OBS @ w[0] + b[0], 0) @ w[1] + b[1], rtol=1e-5)


def test_a_fixed_deviation_is_the_constant():
    policy = PolicyNetwork(SPEC, Policy(std="fixed", std_init=0.05), key=KEY)
    np.testing.assert_allclose(policy(OBS).std, [0.05, 0.05])
    assert policy.log_std is None


def test_an_independent_deviation_is_a_parameter_plus_its_minimum():
    policy = PolicyNetwork(SPEC, Policy(std="independent", std_init=0.5, std_min=0.1), key=KEY)
    np.testing.assert_allclose(policy(OBS).std, [0.6, 0.6], rtol=1e-6)
    np.testing.assert_allclose(policy.log_std, [math.log(0.5)] * 2)


def test_a_predicted_deviation_is_softplus_scaled_so_that_0_gives_std_init():
    policy = PolicyNetwork(SPEC, Policy(std="predicted", std_init=0.3, std_min=1e-6), key=KEY)
    pre = policy.mlp(OBS)[2:]
    expected = np.log1p(np.exp(pre)) * 0.3 / math.log(2) + 1e-6
    np.testing.assert_allclose(policy(OBS).std, expected, rtol=1e-6)
    np.testing.assert_allclose(policy(jnp.zeros(3)).std, [0.3, 0.3], rtol=1e-4)


@pytest.mark.parametrize("head_tanh", ["none", "mean", "all"])
def test_the_final_tanh_covers_what_it_says(head_tanh):
    plain = PolicyNetwork(SPEC, Policy(std_init=1.0, std="predicted", init="uniform"), key=KEY)
    policy = PolicyNetwork(
        SPEC, Policy(std_init=1.0, std="predicted", init="uniform", head_tanh=head_tanh), key=KEY
    )
    mean, pre = np.split(plain.mlp(OBS * 5), 2)
    mean = mean if head_tanh == "none" else np.tanh(mean)
    pre = np.tanh(pre) if head_tanh == "all" else pre
    got = policy(OBS * 5)
    np.testing.assert_allclose(got.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(got.std, np.log1p(np.exp(pre)) / math.log(2), rtol=1e-5)


def test_a_discrete_action_space_gets_a_categorical_policy():
    policy = PolicyNetwork(DISCRETE, Policy(), key=KEY)
    assert isinstance(policy(jnp.zeros(3)), Categorical)
    assert policy(OBS).logits.shape == (4,)
