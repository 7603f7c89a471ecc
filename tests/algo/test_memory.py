"""Networks that remember: the cells by hand, sequences against steps, and what learning sees of them."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poise.algo.memory import Cell, Window, first_carries, from_items, play, play_items, play_on, to_items
from poise.algo.networks import Policy as PolicyNetwork
from poise.algo.networks import ValueFunction
from poise.config import Policy, Value
from poise.spec import Spec

SPEC = Spec.flat("Seq", (3,), (2,), (-1.0, -1.0), (1.0, 1.0))
T, N = 12, 4


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_a_gru_by_hand():
    """Two units, one feature; the equations of its docstring, number by number."""
    cell = Cell(1, 2, "gru", key=jax.random.key(0))
    rng = np.random.default_rng(0)
    x, h = np.array([0.7]), np.array([0.2, -0.4])
    w, u, b = (rng.normal(size=shape) for shape in ((1, 6), (2, 6), (6,)))

    cell = eqx.tree_at(
        lambda c: (c.from_input, c.from_memory, c.bias),
        cell,
        tuple(jnp.asarray(a, jnp.float32) for a in (w, u, b)),
    )
    r, z = sigmoid((x @ w + b + h @ u)[:2]), sigmoid((x @ w + b + h @ u)[2:4])
    n = np.tanh((x @ w + b)[4:] + r * (h @ u)[4:])
    got = cell.step(jnp.asarray(h, jnp.float32), cell.project(jnp.asarray(x, jnp.float32)))
    np.testing.assert_allclose(got, (1 - z) * n + z * h, rtol=1e-5)


def test_an_lstm_by_hand():
    cell = Cell(1, 2, "lstm", key=jax.random.key(1))
    w, u, b = (np.asarray(a, float) for a in (cell.from_input, cell.from_memory, cell.bias))
    assert b.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]  # the forget gate begins open
    x, h, c = np.array([0.7]), np.array([0.2, -0.4]), np.array([1.0, -0.5])
    i, f, g, o = np.split(x @ w + h @ u + b, 4)
    cell_state = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    expected = np.concatenate([sigmoid(o) * np.tanh(cell_state), cell_state])
    carry = jnp.asarray(np.concatenate([h, c]), jnp.float32)
    np.testing.assert_allclose(
        cell.step(carry, cell.project(jnp.asarray(x, jnp.float32))), expected, rtol=1e-5
    )


def test_a_window_by_hand():
    """Two features, the last three observations: the oldest leaves, the newest comes last."""
    window = Window(num_features=2, length=3)
    assert (window.carry_size, window.size) == (6, 4)
    carry = window.step(jnp.arange(6.0), window.project(jnp.array([7.0, 8.0])))
    assert carry.tolist() == [2, 3, 4, 5, 7, 8]
    assert window.output(carry).tolist() == [2, 3, 4, 5]


def test_a_history_is_the_same_network_on_observations_that_were_stacked_before():
    value = ValueFunction(SPEC, Value(), history=3, key=jax.random.key(3))
    obs, begins = sequences()
    values, _ = play(value, obs, begins, jnp.zeros((N, 9)))
    rows = np.asarray(obs).reshape(T, N, 3)
    for n in range(N):
        for t in range(T):
            first = max([s for s in range(t + 1) if begins[s, n]], default=0)
            past = [rows[s, n] if s >= first else np.zeros(3) for s in (t - 2, t - 1)]
            stacked = jnp.asarray(np.concatenate([rows[t, n], *past]), jnp.float32)
            np.testing.assert_allclose(values.reshape(T, N)[t, n], value.mlp(stacked)[0], atol=1e-5)


def networks(kind):
    policy = PolicyNetwork(SPEC, Policy(memory=kind, memory_size=8, std_init=0.5), key=jax.random.key(2))
    return policy, ValueFunction(SPEC, Value(memory=kind, memory_size=8), key=jax.random.key(3))


def sequences(seed=0):
    rng = np.random.default_rng(seed)
    obs = jnp.asarray(rng.normal(size=(T * N, 3)), jnp.float32)
    begins = jnp.asarray(rng.random((T, N)) < 0.2)
    return obs, begins


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_a_sequence_is_its_steps_one_after_another(kind):
    _, value = networks(kind)
    obs, begins = sequences()
    carry = jnp.asarray(np.random.default_rng(1).normal(size=(N, value.memory.carry_size)), jnp.float32)
    values, after = play(value, obs, begins, carry)
    for n in range(N):
        held = np.array(carry[n])
        for t in range(T):
            if begins[t, n]:
                held = np.zeros_like(held)
            features = value.encoder(obs.reshape(T, N, 3)[t, n])
            held = value.memory.step(jnp.asarray(held), value.memory.project(features))
            expected = value.read(jnp.concatenate([features, value.memory.output(held)]), None)
            np.testing.assert_allclose(values.reshape(T, N)[t, n], expected, atol=1e-5)
            np.testing.assert_allclose(after[t, n], held, atol=1e-5)


@pytest.mark.parametrize("length", [1, 3, 12])
def test_items_give_the_same_outputs_as_the_whole_rollout(length):
    """The sequences of a minibatch begin with the carries that the whole rollout had there."""
    _, value = networks("gru")
    obs, begins = sequences()
    carry = jnp.full((N, 8), 0.3)
    values, after = play(value, obs, begins, carry)
    cut = functools.partial(to_items, shape=(T, N), length=length)
    items = play_items(value, cut(obs), cut(begins.reshape(-1)), first_carries(carry, after, length))
    np.testing.assert_allclose(items, cut(values).reshape(-1), atol=1e-5)
    again = from_items(items.reshape(-1, length), shape=(T, N), length=length)
    np.testing.assert_allclose(again, values, atol=1e-5)


def test_the_successor_is_seen_after_the_steps_before_it():
    """V(next_obs) is the value of the next row, where that row is of the same episode."""
    _, value = networks("lstm")
    obs, _ = sequences()
    begins = jnp.zeros((T, N), bool)
    values, after = play(value, obs, begins, jnp.zeros((N, 16)))
    rows = obs.reshape(T, N, 3)
    next_obs = jnp.concatenate([rows[1:], rows[:1]]).reshape(T * N, 3)
    next_values = play_on(value, next_obs, after).reshape(T, N)
    np.testing.assert_allclose(next_values[:-1], values.reshape(T, N)[1:], atol=1e-5)


def test_a_carry_reaches_the_gradient_of_earlier_steps():
    """The gradient at the last step depends on the first observation: nothing is cut within a sequence."""
    policy, _ = networks("gru")
    obs, begins = sequences()
    begins = jnp.zeros_like(begins)

    def last(obs):
        distribution, _ = play(policy, obs, begins, jnp.zeros((N, 8)))
        return distribution.mean.reshape(T, N, 2)[-1].sum()

    gradient = jax.grad(last)(obs).reshape(T, N, 3)
    assert np.abs(gradient[0]).min() > 1e-9
    cut = jax.grad(
        lambda obs: (
            play(policy, obs, begins.at[5].set(True), jnp.zeros((N, 8)))[0].mean.reshape(T, N, 2)[-1].sum()
        )
    )
    assert np.abs(cut(obs).reshape(T, N, 3)[:5]).max() == 0


def test_rows_without_a_memory_stay_in_their_order():
    x = jnp.arange(24).reshape(24, 1)
    assert to_items(x, shape=(6, 4), length=None) is x
    items = to_items(x, shape=(6, 4), length=3)
    assert items.shape == (8, 3, 1)
    assert items[0, :, 0].tolist() == [0, 4, 8]  # of one environment, in the order of time
    assert items[1, :, 0].tolist() == [12, 16, 20]
    np.testing.assert_array_equal(from_items(items, shape=(6, 4), length=3), x)
