"""From an observation to the numbers that a policy or a value function computes with.

Fully connected layers, convolutions for images, and the ``Encoder`` that joins what each part of an
observation gives.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from poise import config as cfg
from poise.config import Activation, Init
from poise.spec import NUMBERS, Leaf, Spec
from poise.types import Tensor

ACTIVATIONS = {name: getattr(jax.nn, name) for name in get_args(Activation)}
SMALL = 36  # pixels of the shorter side below which the small encoder is used
EPSILON = 1e-5  # added to the variance of a layer's units


class MLP(eqx.Module):
    """Fully connected layers, ``x W + b``, with an activation between them and none at the end.

    Orthogonal initialization: Saxe et al. 2013, arXiv:1312.6120; biases 0; the last layer has ``last_gain``.
    In hidden layers the gain is sqrt 2, which keeps the mean square of a ReLU layer; others need 1.2 (elu) to
    1.8 (sigmoid). With selu it is 1, for its mean 0 and variance 1 (Klambauer et al. 2017, arXiv:1706.02515).
    Uniform: weights and biases within 1 / sqrt(inputs).

    ``layer_norm`` scales the units of each hidden layer to mean 0 and variance 1 before the activation (Ba et
    al. 2016, arXiv:1607.06450, without learned scale). ``residual`` adds the input of each hidden layer after
    the first to its output, before the next activation (He et al. 2016, arXiv:1603.05027).
    """

    weight: tuple[Float[Array, "inputs outputs"], ...]
    bias: tuple[Float[Array, " outputs"], ...]
    activation: Activation = eqx.field(static=True)
    layer_norm: bool = eqx.field(static=True, default=False)
    residual: bool = eqx.field(static=True, default=False)

    def __init__(
        self,
        widths: tuple[int, ...],
        config: "cfg.Policy | cfg.Value",
        *,
        last_gain: float,
        key: PRNGKeyArray,
    ):
        gain = 1.0 if config.activation == "selu" else math.sqrt(2)
        gains = [gain] * (len(widths) - 2) + [last_gain]
        keys = jax.random.split(key, len(gains))
        layers = [
            layer(inputs, outputs, config.init, gain, key=key)
            for inputs, outputs, gain, key in zip(widths[:-1], widths[1:], gains, keys, strict=True)
        ]
        self.weight = tuple(weight for weight, _ in layers)
        self.bias = tuple(bias for _, bias in layers)
        self.activation = config.activation
        self.layer_norm, self.residual = config.layer_norm, config.residual

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        activate = ACTIVATIONS[self.activation]
        *hidden, last = zip(self.weight, self.bias, strict=True)
        before = None  # the layer before its activation: what a residual layer adds to
        for weight, bias in hidden:
            layer = x @ weight + bias
            before = layer if before is None or not self.residual else before + layer
            x = activate(standardized(before) if self.layer_norm else before)
        return x @ last[0] + last[1]


def standardized(x: Float[Array, "*N units"]) -> Float[Array, "*N units"]:
    """The units with mean 0 and variance 1."""
    centered = x - jnp.mean(x, axis=-1, keepdims=True)
    return centered * jax.lax.rsqrt(jnp.mean(centered**2, axis=-1, keepdims=True) + EPSILON)


def layer(
    inputs: int, outputs: int, init: Init, gain: float, *, key: PRNGKeyArray
) -> tuple[Float[Array, "inputs outputs"], Float[Array, " outputs"]]:
    """The weights and biases of a new layer."""
    match init:
        case "orthogonal":
            weight = jax.nn.initializers.orthogonal(gain)(key, (inputs, outputs), jnp.float32)
            return weight, jnp.zeros(outputs)
        case "uniform":
            limit = 1 / math.sqrt(inputs)
            for_weight, for_bias = jax.random.split(key)
            return (
                jax.random.uniform(for_weight, (inputs, outputs), minval=-limit, maxval=limit),
                jax.random.uniform(for_bias, (outputs,), minval=-limit, maxval=limit),
            )


class Pixels(eqx.Module):
    """An image as the networks get it: as it was observed, and how each channel is normalized.

    Images stay bytes until a network reads them: as float32 a rollout of them would be four times as large.
    """

    data: Shaped[Tensor, "..."]  # in the layout of the environment
    mean: Float[Tensor, "*B channels"]  # of pixels from 0 to 1
    std: Float[Tensor, "*B channels"]


def unit_pixels(leaf: Leaf, data: Shaped[Array, "..."]) -> Float[Array, "*B height width channels"]:
    """Pixels as float32 from 0 to 1, with the channels last."""
    if leaf.channels is None:
        data = data[..., None]
    elif leaf.channels == 0:
        data = jnp.moveaxis(data, -3, -1)
    # subtracted as float32: uint8 would wrap
    return (data.astype(jnp.float32) - leaf.low) * (1 / (leaf.high - leaf.low))


def image_size(leaf: Leaf) -> tuple[int, int, int]:
    """Height, width and channels of an image."""
    match leaf.channels:
        case 0:
            return leaf.shape[1], leaf.shape[2], leaf.shape[0]
        case 2:
            return leaf.shape[0], leaf.shape[1], leaf.shape[2]
        case None:
            return leaf.shape[0], leaf.shape[1], 1


class Convolution(eqx.Module):
    """A convolution without padding, or with the padding that keeps the size. Its stride divides its side."""

    weight: Float[Array, "k k inputs outputs"]
    bias: Float[Array, " outputs"]
    stride: int = eqx.field(static=True)
    keeps_size: bool = eqx.field(static=True)

    def __init__(
        self,
        side: int,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        keeps_size: bool = False,
        key: PRNGKeyArray,
    ):
        flat = jax.nn.initializers.orthogonal(math.sqrt(2))(key, (side * side * inputs, outputs), jnp.float32)
        self.weight, self.bias = flat.reshape(side, side, inputs, outputs), jnp.zeros(outputs)
        self.stride, self.keeps_size = stride, keeps_size

    def __call__(self, x: Float[Array, "H W inputs"]) -> Float[Array, "h w outputs"]:
        """As one matrix product: in a loop on a CPU, XLA's own convolution is up to 16 times slower.

        With a stride, blocks of stride x stride pixels become channels; then the stride is 1.
        """
        side, _, inputs, outputs = self.weight.shape
        if self.keeps_size:
            x = jnp.pad(x, ((side // 2, (side - 1) // 2), (side // 2, (side - 1) // 2), (0, 0)))
        stride = self.stride
        height, width = ((length - side) // stride + 1 for length in x.shape[:2])
        reach = side // stride  # blocks that an output reads in each direction
        rows, columns = height + reach - 1, width + reach - 1
        x = x[: rows * stride, : columns * stride].reshape(rows, stride, columns, stride, inputs)
        x = x.transpose(0, 2, 1, 3, 4).reshape(rows, columns, -1)
        shifted = [x[i : i + height, j : j + width] for i in range(reach) for j in range(reach)]
        weight = self.weight.reshape(reach, stride, reach, stride, inputs, outputs)
        weight = weight.transpose(0, 2, 1, 3, 4, 5).reshape(-1, outputs)
        return jnp.concatenate(shifted, axis=-1) @ weight + self.bias[None, None]


class ImageEncoder(eqx.Module):
    """Convolutions and one fully connected layer, each followed by a ReLU.

    small: two layers of 3 x 3 for grids and other small images, 16 and 32 channels, then 128 units.
    nature: Mnih et al. 2015, "Human-level control through deep reinforcement learning": 8 x 8, 4 x 4 and
        3 x 3 with strides 4, 2 and 1, then 512 units.
    impala: Espeholt et al. 2018, arXiv:1802.01561, figure 3: three sections of 16, 32 and 32 channels, each
        with a pooling and two residual blocks, then 256 units.
    flat: the pixels themselves; no layer.
    """

    convolutions: tuple[Convolution, ...]
    weight: Float[Array, "inputs features"] | None
    bias: Float[Array, " features"] | None
    leaf: Leaf = eqx.field(static=True)
    kind: Literal["small", "nature", "impala", "flat"] = eqx.field(static=True)

    def __init__(self, leaf: Leaf, kind: cfg.Images, *, key: PRNGKeyArray):
        height, width, channels = image_size(leaf)
        if kind == "auto":
            kind = "small" if min(height, width) < SMALL else "nature"
        self.leaf, self.kind = leaf, kind
        for_convolutions, for_layer = jax.random.split(key)
        self.convolutions = _convolutions(kind, channels, for_convolutions)
        self.weight = self.bias = None
        units = {"small": 128, "nature": 512, "impala": 256, "flat": 0}[kind]
        if units:
            size = jax.eval_shape(
                self._convolved, jax.ShapeDtypeStruct((height, width, channels), jnp.float32)
            )
            self.weight, self.bias = layer(size.size, units, "orthogonal", math.sqrt(2), key=for_layer)

    @property
    def num_features(self) -> int:
        return math.prod(self.leaf.shape) if self.weight is None else self.weight.shape[1]

    def __call__(self, image: Pixels) -> Float[Array, " features"]:
        x = (unit_pixels(self.leaf, jnp.asarray(image.data)) - image.mean[None, None]) / image.std[None, None]
        x = self._convolved(x).reshape(-1)
        if self.weight is None or self.bias is None:
            return x
        return jax.nn.relu(x @ self.weight + self.bias)

    def _convolved(self, x: Float[Array, "H W C"]) -> Float[Array, "h w c"]:
        if self.kind != "impala":
            for convolution in self.convolutions:
                x = jax.nn.relu(convolution(x))
            return x
        for i in range(0, len(self.convolutions), 5):  # a section has one convolution and two blocks of two
            first, *blocks = self.convolutions[i : i + 5]
            x = _pooled(first(x))
            for a, b in (blocks[:2], blocks[2:]):
                x = x + b(jax.nn.relu(a(jax.nn.relu(x))))
        return jax.nn.relu(x)


def _convolutions(kind: str, channels: int, key: PRNGKeyArray) -> tuple[Convolution, ...]:
    keys = iter(jax.random.split(key, 16))
    match kind:
        case "small":
            return Convolution(3, channels, 16, key=next(keys)), Convolution(3, 16, 32, key=next(keys))
        case "nature":
            return (
                Convolution(8, channels, 32, stride=4, key=next(keys)),
                Convolution(4, 32, 64, stride=2, key=next(keys)),
                Convolution(3, 64, 64, key=next(keys)),
            )
        case "impala":
            sections = []
            for inputs, outputs in ((channels, 16), (16, 32), (32, 32)):
                sections.append(Convolution(3, inputs, outputs, keeps_size=True, key=next(keys)))
                sections += [
                    Convolution(3, outputs, outputs, keeps_size=True, key=next(keys)) for _ in range(4)
                ]
            return tuple(sections)
        case _:
            return ()


def _pooled(x: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
    """The largest value of each 3 x 3 pixels, at every second pixel."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (3, 3, 1), (2, 2, 1), "SAME")


class Encoder(eqx.Module):
    """Joins the numbers of an observation and the features of its images. Without images it has no parameter.

    ``columns``: the numbers that this network sees; None: all of them.
    """

    images: dict[str, ImageEncoder]
    columns: tuple[int, ...] | None = eqx.field(static=True)
    num_numbers: int = eqx.field(static=True)

    def __init__(self, spec: Spec, see: Sequence[str], images: cfg.Images, *, key: PRNGKeyArray):
        seen = [leaf for leaf in spec.obs if not see or leaf.name in see]
        numbers = [np.arange(spec.obs_size)[spec.columns(leaf.name)] for leaf in seen if leaf.width]
        columns = np.concatenate(numbers).tolist() if numbers else []
        self.columns = None if len(columns) == spec.obs_size else tuple(columns)
        self.num_numbers = len(columns)
        pictures = [leaf for leaf in seen if leaf.kind == "image"]
        keys = jax.random.split(key, max(1, len(pictures)))
        self.images = {
            leaf.name: ImageEncoder(leaf, images, key=key) for leaf, key in zip(pictures, keys, strict=False)
        }

    @property
    def num_features(self) -> int:
        return self.num_numbers + sum(image.num_features for image in self.images.values())

    def __call__(self, obs: PyTree[Array]) -> Float[Array, " features"]:
        if not isinstance(obs, dict):
            return obs if self.columns is None else obs[jnp.array(self.columns)]
        # sorted, as JAX sorts the keys of a dictionary
        features = [self.images[name](obs[name]) for name in sorted(self.images)]
        if self.num_numbers:
            numbers = obs[NUMBERS]
            features.insert(0, numbers if self.columns is None else numbers[jnp.array(self.columns)])
        return features[0] if len(features) == 1 else jnp.concatenate(features)
