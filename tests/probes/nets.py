"""Networks of one's own for tests: some that learn, and one with each fault that is found before."""

import itertools
import random
import typing

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


class Plain(eqx.Module):
    """One hidden layer, whose fields are a list of layers, a function, an array and a static tuple."""

    layers: list
    activation: object
    scale: jax.Array
    widths: tuple = eqx.field(static=True)

    def __init__(self, inputs, outputs, *, key):
        first, second = jax.random.split(key)
        self.layers = [eqx.nn.Linear(inputs, 8, key=first), eqx.nn.Linear(8, outputs, key=second)]
        self.activation, self.scale, self.widths = jax.nn.gelu, np.ones((), np.float32), (inputs, 8, outputs)

    def __call__(self, x):
        return self.scale * self.layers[1](self.activation(self.layers[0](x)))


class Other(Plain):
    """The same arrays, another function."""

    def __call__(self, x):
        return jnp.tanh(super().__call__(x))


class LikePolicy(eqx.Module):
    """The layers of poise's policy with their default initialization, written again."""

    last_gain: typing.ClassVar = 0.01
    weight: list
    bias: list

    def __init__(self, inputs, outputs, *, key):
        widths = (inputs, 64, 64, outputs)
        gains = (2**0.5, 2**0.5, self.last_gain)
        keys = jax.random.split(key, 3)
        self.weight = [
            jax.nn.initializers.orthogonal(gain)(key, shape, jnp.float32)
            for gain, key, shape in zip(gains, keys, itertools.pairwise(widths), strict=True)
        ]
        self.bias = [jnp.zeros(width) for width in widths[1:]]

    def __call__(self, x):
        for weight, bias in zip(self.weight[:-1], self.bias[:-1], strict=True):
            x = jnp.tanh(x @ weight + bias)
        return x @ self.weight[-1] + self.bias[-1]


class LikeValue(LikePolicy):
    """Those of poise's value function."""

    last_gain: typing.ClassVar = 1.0


class Convolved(eqx.Module):
    """Pixels of 5 x 5 with 3 channels, seen through a convolution."""

    convolution: eqx.nn.Conv2d
    last: eqx.nn.Linear

    def __init__(self, inputs, outputs, *, key):
        first, second = jax.random.split(key)
        assert inputs == 75
        self.convolution = eqx.nn.Conv2d(3, 4, 3, key=first)
        self.last = eqx.nn.Linear(36, outputs, key=second)

    def __call__(self, x):
        pixels = x.reshape(5, 5, 3).transpose(2, 0, 1)
        return self.last(jax.nn.relu(self.convolution(pixels)).reshape(-1))


class OneTooMany(Plain):
    def __call__(self, x):
        return jnp.append(super().__call__(x), 0.0)


class Pair(Plain):
    def __call__(self, x):
        return super().__call__(x), x


class Half(Plain):
    def __call__(self, x):
        return super().__call__(x).astype(jnp.float16)


class Raises(Plain):
    def __call__(self, x):
        return x @ jnp.zeros((99, 2))


class NoKey(eqx.Module):
    def __init__(self, inputs, outputs):
        pass


class WholeNumbers(Plain):
    def __init__(self, inputs, outputs, *, key):
        super().__init__(inputs, outputs, key=key)
        self.scale = jnp.ones((), jnp.int32)


class Unhashable(Plain):
    def __init__(self, inputs, outputs, *, key):
        super().__init__(inputs, outputs, key=key)
        self.activation = {"gelu"}


class FreshFunction(Plain):
    def __init__(self, inputs, outputs, *, key):
        super().__init__(inputs, outputs, key=key)
        self.activation = lambda x: jnp.maximum(x, 0)


class Unseeded(Plain):
    def __init__(self, inputs, outputs, *, key):
        super().__init__(inputs, outputs, key=key)
        self.scale = jnp.asarray(random.random(), jnp.float32)


class Restless(Plain):
    def __call__(self, x):
        return super().__call__(x) + random.random()


class Infinite(Plain):
    def __call__(self, x):
        return super().__call__(x) / jnp.sum(jnp.abs(x))


class NoGradient(Plain):
    def __call__(self, x):
        return super().__call__(x) + 0.0 * jnp.sqrt(0.0 * self.scale)


class NotEquinox:
    def __init__(self, inputs, outputs, *, key):
        pass
