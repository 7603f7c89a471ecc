"""The policy in NumPy: a few small matrix products cost less than one call into JAX.

Used while collecting from host environments and in evaluation; tested equal to the networks. A policy that
reads images acts compiled.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from poise.algo.distributions import FORBIDDEN
from poise.algo.encoders import EPSILON, MLP
from poise.algo.memory import AnyMemory, Cell, Window
from poise.algo.networks import Policy, ValueFunction
from poise.algo.normalize import Normalizer
from poise.config import Activation, Normalize
from poise.envs.packing import Obs
from poise.own.network import OwnNetwork
from poise.spec import MASK, NUMBERS, Spec
from poise.training.origin import from_origin, obs_from_origin
from poise.types import Tensor


class ActionScale:
    """From the policy's units to the environment's: clip(center + scale * action, low, high).

    With normalization the policy's [-1, 1] is the environment's [low, high], dimension by
    dimension; a dimension that ``Spec.scaled`` leaves out keeps its units. Choices stay as they are. Takes
    NumPy and JAX arrays. A product that overflows ends at the bound; the caller silences NumPy's warning of
    it (``quiet``).
    """

    def __init__(self, spec: Spec, *, normalize: bool):
        low, high = np.array(spec.action_low), np.array(spec.action_high)
        self._bounded = np.array(spec.scaled, bool)
        scaled = self._bounded & normalize
        with np.errstate(invalid="ignore", over="ignore"):
            center = np.where(scaled, (low + high) / 2, 0.0).astype(np.float32)
            scale = np.where(scaled, (high - low) / 2, 1.0).astype(np.float32)
        low, high = spec.float32_bounds
        sizes = np.array(spec.sizes, np.float32)  # of the choices, which are whole numbers from 0
        self.center = np.concatenate([center, np.zeros_like(sizes)])
        self.scale = np.concatenate([scale, np.ones_like(sizes)])
        self.low = np.concatenate([low, np.zeros_like(sizes)])
        self.high = np.concatenate([high, sizes - 1])
        self._has_boxes, self._box_size = bool(spec.boxes), spec.box_size

    def __call__(self, action: Shaped[Tensor, " *N_A"]) -> Shaped[Tensor, " *N_A"]:
        if not self._has_boxes:
            return action
        return (self.center + self.scale * action).clip(self.low, self.high)

    def reached(self, action: Shaped[Tensor, "... A"]) -> Bool[Tensor, "... bounded"] | None:
        """Which entries are at a bound or beyond it after scaling, of the dimensions that have bounds.

        None where actions are choices only.
        """
        if not self._has_boxes:
            return None
        with quiet():
            scaled = (self.center + self.scale * action)[..., : self._box_size][..., self._bounded]
        low, high = (bound[: self._box_size][self._bounded] for bound in (self.low, self.high))
        return (scaled <= low) | (scaled >= high)


SELU, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # as in jax.nn.selu
FEW_ROWS = 1024  # up to so many rows, an Actor keeps its biases repeated for every row


def quiet() -> np.errstate:
    """Silences NumPy in acting: an overflow is clipped at a bound, or reported by a check with its place."""
    return np.errstate(over="ignore", invalid="ignore")


@runtime_checkable
class Acting(Protocol):
    """A policy and its frozen observation statistics, acting on raw observations."""

    @property
    def carry_size(self) -> int:
        """Numbers that the policy's memory carries for one environment, S; 0 without a memory."""
        ...

    def act(
        self,
        obs: Obs,
        noise: Float[np.ndarray, "N noise"] | None = None,
        carry: Float[np.ndarray, "N S"] | None = None,
    ) -> Shaped[np.ndarray, "N ..."]:
        """Actions in the policy's units: the samples for ``noise``, or greedy ones without it.

        ``noise`` is standard normal for dimensions of boxes and standard Gumbel for values of choices.
        ``carry``: what the memory holds, 0 at the start of an episode; it is changed to what it holds then.
        """
        ...


def make_actor(policy: Policy, normalizer: Normalizer, config: Normalize) -> Acting:
    """What acts fastest with this policy."""
    if policy.encoder.images or isinstance(policy.mlp, OwnNetwork):
        return CompiledActor(policy, normalizer, config)
    return Actor(policy, normalizer, config)


def empty_carry(actor: Acting, num_envs: int) -> Float[np.ndarray, "N S"] | None:
    """What a policy's memory holds at the start of episodes; None without a memory."""
    return np.zeros((num_envs, actor.carry_size), np.float32) if actor.carry_size else None


class CompiledActor:
    """Acts with one compiled call: for policies that read images, and for networks of the user."""

    def __init__(self, policy: Policy, normalizer: Normalizer, config: Normalize):
        self._policy, self._normalizer = policy, normalizer
        self._config = config
        self.carry_size = 0 if policy.memory is None else policy.memory.carry_size

    def act(
        self,
        obs: Obs,
        noise: Float[np.ndarray, "N noise"] | None = None,
        carry: Float[np.ndarray, "N S"] | None = None,
    ) -> Shaped[np.ndarray, "N ..."]:
        obs = obs_from_origin(obs, self._normalizer.origin)
        enabled, bound = self._config.obs, self._config.obs_bound
        action, after = _act(self._policy, self._normalizer, obs, noise, carry, bound, enabled=enabled)
        if carry is not None:
            carry[:] = after
        return np.asarray(action)


@partial(jax.jit, static_argnames="enabled")
def _act(
    policy: Policy, normalizer: Normalizer, obs: Any, noise: Any, carry: Any, bound: Any, *, enabled: bool
) -> tuple[Any, Any]:
    """Actions, and the carries after them."""

    def act(obs, noise, carry):
        distribution, carry = respond(policy, normalizer, obs, carry, enabled=enabled, bound=bound)
        return distribution.draw(noise), carry

    if noise is None:  # no noise: the greedy action
        rows = jax.tree.leaves(obs)[0].shape[0]
        noise = jnp.zeros((rows, policy.box_size + sum(policy.sizes)))
    return jax.vmap(act)(obs, noise, carry)


def respond(
    network: Policy | ValueFunction,
    normalizer: Normalizer,
    obs: PyTree[Array],
    carry: Float[Array, " S"] | None,
    *,
    enabled: bool,
    bound: Any,
) -> tuple[Any, Float[Array, " S"] | None]:
    """What a network gives for one raw observation, and what its memory holds after it.

    ``enabled``, ``bound``: whether observations are normalized, and where they are clipped.
    """
    obs = normalizer.scale(obs, enabled=enabled, bound=bound)
    features, carry = see_and_remember(network, obs, carry)
    return network.read(features, obs), carry


def see_and_remember(
    network: Policy | ValueFunction, obs: PyTree[Array], carry: Float[Array, " S"] | None
) -> tuple[Float[Array, " features"], Float[Array, " S"] | None]:
    """What the layers of a network read of one scaled observation, and what its memory holds after it."""
    features = network.encoder(obs)
    if network.memory is None or carry is None:
        return features, None
    carry = network.memory.step(carry, network.memory.project(features))
    return jnp.concatenate([features, network.memory.output(carry)]), carry


class Actor:
    """Acts in NumPy."""

    def __init__(self, policy: Policy, normalizer: Normalizer, config: Normalize):
        assert isinstance(policy.mlp, MLP)
        # one copy from the device for each rollout, none in its steps
        self._weights = [np.asarray(w) for w in policy.mlp.weight]
        self._biases = [np.asarray(b) for b in policy.mlp.bias]
        self._activation = ACTIVATIONS[policy.mlp.activation]
        self._layer_norm, self._residual = policy.mlp.layer_norm, policy.mlp.residual
        self._statistics = _statistics(normalizer)
        self._origin = normalizer.origin
        self._spread = 0, self._statistics, self._biases
        self._scaled, limit = config.obs, config.obs_bound
        self._limits = None if limit is None else _limits(normalizer, limit)
        columns = policy.encoder.columns
        self._columns = None if columns is None else np.array(columns)
        self._memory = None if policy.memory is None else _in_numpy(policy.memory)
        self.carry_size = 0 if policy.memory is None else policy.memory.carry_size
        self._box_size, self._choose = policy.box_size, Chooser(policy.sizes, is_index=policy.is_index)
        self._head_tanh, self._std_min = policy.head_tanh, np.float32(policy.std_min)
        self._predicted = policy.std == "predicted"
        self._std_scale = np.float32(policy.std_init / math.log(2))
        log_std = policy.log_std
        constant = policy.std_init if log_std is None else np.exp(np.asarray(log_std)) + self._std_min
        self._constant_std = np.asarray(constant, np.float32)

    def act(
        self,
        obs: Obs,
        noise: Float[np.ndarray, "N noise"] | None = None,
        carry: Float[np.ndarray, "N S"] | None = None,
    ) -> Shaped[np.ndarray, "N ..."]:
        """As ``Acting.act``."""
        out = self.forward(obs, carry)
        size, mask = self._box_size, obs.get(MASK) if isinstance(obs, dict) else None
        if not size:
            return self._choose(out, noise, mask)
        if not self._choose.sizes:
            return self._draw(out, noise)
        logits = out[:, out.shape[1] - self._choose.num_logits :]
        chosen = self._choose(logits, None if noise is None else noise[:, size:], mask)
        box = self._draw(
            out[:, : out.shape[1] - self._choose.num_logits], None if noise is None else noise[:, :size]
        )
        return np.concatenate([box, chosen.astype(np.float32)], axis=1)

    def _draw(self, out: np.ndarray, noise: np.ndarray | None) -> Float[np.ndarray, "N A"]:
        mean, std = self._heads(out)
        return mean if noise is None else mean + std * noise

    def _heads(self, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._head_tanh == "all":
            out = np.tanh(out)
        mean, std = out, self._constant_std
        if self._predicted:
            mean, pre = np.split(out, 2, axis=1)
            std = np.logaddexp(pre, np.float32(0)) * self._std_scale + self._std_min  # softplus
        return (np.tanh(mean) if self._head_tanh == "mean" else mean), std

    def forward(
        self, obs: Obs, carry: Float[np.ndarray, "N S"] | None = None
    ) -> Float[np.ndarray, "N outputs"]:
        """The output of the network's last layer for raw observations: means, or logits."""
        numbers = obs[NUMBERS] if isinstance(obs, dict) else obs
        x = from_origin(numbers, self._origin)  # the only subtraction in float64; all below is float32
        (mean, std), (*biases, last) = self._for_rows(len(x))
        if self._scaled:
            x = (x - mean) / std
        if self._limits is not None:
            low, high = self._limits
            x = np.maximum(np.minimum(x, high), low)
        if self._columns is not None:
            x = x[:, self._columns]
        if self._memory is not None:
            x = self._memory(x, carry)
        if self._layer_norm or self._residual:
            return self._blocks(x)
        for weight, bias in zip(self._weights, biases, strict=False):
            x = x.dot(weight)  # a microsecond less than x @ weight, the same bits
            x += bias  # in place, as the activation: a new array costs more than its sum
            self._activation(x, out=x)
        return x.dot(self._weights[-1]) + last

    def _blocks(self, x: Float[np.ndarray, "N features"]) -> Float[np.ndarray, "N outputs"]:
        """The layers with layer normalization, residual connections or both (``encoders.MLP``)."""
        before = None
        for weight, bias in zip(self._weights[:-1], self._biases[:-1], strict=True):
            layer = x.dot(weight) + bias
            before = layer if before is None or not self._residual else before + layer
            x = _standardized(before) if self._layer_norm else before.copy()
            self._activation(x, out=x)
        return x.dot(self._weights[-1]) + self._biases[-1]

    def _for_rows(self, rows: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Statistics and biases, repeated for so many rows: arrays of equal shapes add in half the time."""
        if rows > FEW_ROWS:
            return self._statistics, self._biases
        spread = self._spread  # one assignment and one read: several threads may act with one agent
        if spread[0] != rows:
            statistics = [np.repeat(s[None], rows, axis=0) for s in self._statistics]
            biases = [np.repeat(b[None], rows, axis=0) for b in self._biases]
            spread = self._spread = rows, statistics, biases
        return spread[1], spread[2]


class Chooser:
    """Picks the values of choices from their logits."""

    def __init__(self, sizes: tuple[int, ...], *, is_index: bool):
        self.sizes, self.num_logits, self._is_index = sizes, sum(sizes), is_index
        most = max(sizes, default=0)
        starts = np.cumsum((0, *sizes[:-1]))[:, None] if sizes else np.zeros((0, 1), int)
        self._exists = np.arange(most) < np.array(sizes, int)[:, None]
        self._places = np.where(self._exists, starts + np.arange(most), 0)

    def __call__(
        self,
        logits: Float[np.ndarray, "N M"],
        noise: Float[np.ndarray, "N M"] | None = None,
        mask: Bool[np.ndarray, "N M"] | None = None,
    ) -> Shaped[np.ndarray, "N ..."]:
        """The sample for Gumbel ``noise``, or the most probable values: ``[N]`` or ``[N, K]``."""
        if mask is not None:
            logits = np.where(mask, logits, np.float32(FORBIDDEN))
        if noise is not None:
            logits = logits + noise  # see Categorical.draw
        if self._is_index:
            return np.argmax(logits, axis=1)
        table = np.where(self._exists, logits[:, self._places], np.float32(2 * FORBIDDEN))
        return np.argmax(table, axis=2)


def _in_numpy(memory: AnyMemory) -> "_Cell | _Window":
    return _Window(memory) if isinstance(memory, Window) else _Cell(memory)


class _Window:
    """``poise.algo.memory.Window`` in NumPy."""

    def __init__(self, window: Window):
        self._num_features = window.num_features

    def __call__(
        self, features: Float[np.ndarray, "N features"], carry: Float[np.ndarray, "N S"] | None
    ) -> Float[np.ndarray, "N features_size"]:
        """The features and those before them, side by side; ``carry`` becomes what is held after it."""
        assert carry is not None, "a policy with a history needs its carry"
        size = self._num_features
        carry[:] = np.concatenate([carry[:, size:], features], axis=1)
        return np.concatenate([features, carry[:, :-size]], axis=1)


class _Cell:
    """``poise.algo.memory.Cell`` in NumPy."""

    def __init__(self, cell: Cell):
        self._input, self._memory, self._bias = map(
            np.asarray, (cell.from_input, cell.from_memory, cell.bias)
        )
        self._size, self._kind = cell.size, cell.kind

    def __call__(
        self, features: Float[np.ndarray, "N features"], carry: Float[np.ndarray, "N S"] | None
    ) -> Float[np.ndarray, "N features_H"]:
        """The features and what is remembered, side by side; ``carry`` becomes what is held after it."""
        assert carry is not None, "a policy with a memory needs its carry"
        hidden, size = carry[:, : self._size], self._size
        gates, fed_back = features.dot(self._input) + self._bias, hidden.dot(self._memory)
        if self._kind == "gru":
            r, z = np.split(_sigmoid(gates[:, : 2 * size] + fed_back[:, : 2 * size]), 2, axis=1)
            new = np.tanh(gates[:, 2 * size :] + r * fed_back[:, 2 * size :])
            carry[:] = (1 - z) * new + z * hidden
        else:
            i, f, g, o = np.split(gates + fed_back, 4, axis=1)
            cell = _sigmoid(f) * carry[:, size:] + _sigmoid(i) * np.tanh(g)
            carry[:] = np.concatenate([_sigmoid(o) * np.tanh(cell), cell], axis=1)
        return np.concatenate([features, carry[:, :size]], axis=1)


def _statistics(normalizer: Normalizer) -> list[np.ndarray]:
    """Mean and deviation of each number; 0 and 1 where it is not normalized."""
    mean, std = np.array(normalizer.obs.mean), np.array(normalizer.obs.std)
    one_hot = normalizer.one_hot
    mean[one_hot], std[one_hot] = 0, 1
    return [mean, std]


def _limits(normalizer: Normalizer, limit: float) -> tuple[np.ndarray | np.float32, np.ndarray | np.float32]:
    """The bounds of each number, without bounds where it is not normalized."""
    if not normalizer.one_hot.any():
        return np.float32(-limit), np.float32(limit)
    bounds = np.where(normalizer.one_hot, np.inf, limit).astype(np.float32)
    return -bounds, bounds


def _sigmoid(x: np.ndarray) -> np.ndarray:
    with quiet():
        return 1 / (1 + np.exp(-x))


def _standardized(x: Float[np.ndarray, "N units"]) -> Float[np.ndarray, "N units"]:
    """``poise.algo.encoders.standardized`` in NumPy."""
    centered = x - x.mean(axis=1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(axis=1, keepdims=True) + np.float32(EPSILON))


def _relu(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    return np.maximum(x, np.float32(0), out=out)


def _expm1_below_0(x: np.ndarray) -> np.ndarray:
    """exp(x) - 1, and 0 where x is positive."""
    return np.expm1(np.minimum(x, np.float32(0)))


def _gelu(x: np.ndarray) -> np.ndarray:
    """As ``jax.nn.gelu``, with a tanh in place of the distribution function of a normal variable."""
    return x * (0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


# tanh and relu need no other array
ACTIVATIONS: dict[Activation, Callable[..., Any]] = {
    "tanh": np.tanh,
    "relu": _relu,
    "leaky_relu": lambda x, out: np.maximum(x, 0.01 * x, out=out),
    "elu": lambda x, out: np.copyto(out, np.where(x > 0, x, _expm1_below_0(x))),
    "selu": lambda x, out: np.multiply(SELU, np.where(x > 0, x, SELU_ALPHA * _expm1_below_0(x)), out=out),
    "gelu": lambda x, out: np.copyto(out, _gelu(x)),
    "silu": lambda x, out: np.multiply(x, _sigmoid(x), out=out),
    "sigmoid": lambda x, out: np.copyto(out, _sigmoid(x)),
}
