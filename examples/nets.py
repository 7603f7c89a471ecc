"""Your own networks: classes of Equinox in place of poise's hidden layers.

In this folder: poise train Pendulum-v1 --policy.network nets:Skip --value.network nets:Skip
"""

import equinox as eqx
import jax
import jax.numpy as jnp


class Skip(eqx.Module):
    """Two hidden layers; the last layer also reads the observation itself."""

    hidden: eqx.nn.MLP
    last: eqx.nn.Linear

    def __init__(self, inputs: int, outputs: int, *, key):
        first, second = jax.random.split(key)
        self.hidden = eqx.nn.MLP(inputs, 64, 64, 1, jax.nn.silu, jax.nn.silu, key=first)
        last = eqx.nn.Linear(64 + inputs, outputs, key=second)
        # small weights: at first the outputs are close to 0 for every observation, as those of poise's layers
        self.last = jax.tree.map(lambda x: 0.01 * x, last)

    def __call__(self, x):  # float32[inputs] -> float32[outputs]
        return self.last(jnp.concatenate([self.hidden(x), x]))


class Odd(eqx.Module):
    """f(-x) = -f(x), for a task whose mirror image has mirrored actions: no biases, and tanh is odd."""

    layers: list

    def __init__(self, inputs: int, outputs: int, *, key):
        widths, keys = (inputs, 64, 64, outputs), jax.random.split(key, 3)
        self.layers = [
            eqx.nn.Linear(before, after, use_bias=False, key=key)
            for before, after, key in zip(widths[:-1], widths[1:], keys, strict=True)
        ]

    def __call__(self, x):
        *hidden, last = self.layers
        for layer in hidden:
            x = jnp.tanh(layer(x))
        return last(x)
