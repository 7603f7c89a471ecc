"""The policy in NumPy: a few small matrix products cost less than one call into JAX.

Used while collecting from host environments and in evaluation; tested equal to the networks.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Shaped

from poise.algo.networks import GaussianPolicy, Policy
from poise.algo.normalize import Normalizer
from poise.config import Normalize
from poise.spec import Spec
from poise.training.origin import from_origin
from poise.types import Tensor


class ActionScale:
    """From the policy's units to the environment's: clip(center + scale * action, low, high).

    With normalization the policy's [-1, 1] is the environment's [low, high], dimension by
    dimension; a dimension that ``Spec.scaled`` leaves out keeps its units. Takes NumPy and JAX arrays.
    A product that overflows ends at the bound; the caller silences NumPy's warning of it (``quiet``).
    """

    def __init__(self, spec: Spec, *, normalize: bool):
        low, high = np.array(spec.action_low), np.array(spec.action_high)
        self._bounded = np.array(spec.scaled, bool)
        scaled = self._bounded & normalize
        with np.errstate(invalid="ignore", over="ignore"):
            self.center = np.where(scaled, (low + high) / 2, 0.0).astype(np.float32)
            self.scale = np.where(scaled, (high - low) / 2, 1.0).astype(np.float32)
        self.low, self.high = spec.float32_bounds
        self._discrete = spec.discrete

    def __call__(self, action: Shaped[Tensor, " *N_A"]) -> Shaped[Tensor, " *N_A"]:
        if self._discrete:
            return action
        return (self.center + self.scale * action).clip(self.low, self.high)

    def reached(self, action: Shaped[np.ndarray, "... A"]) -> Bool[np.ndarray, "... bounded"] | None:
        """Which entries are at a bound or beyond it after scaling, of the dimensions that have bounds.

        None where actions are discrete.
        """
        if self._discrete:
            return None
        with quiet():
            scaled = (self.center + self.scale * action)[..., self._bounded]
        return (scaled <= self.low[self._bounded]) | (scaled >= self.high[self._bounded])


FEW_ROWS = 1024  # up to so many rows, an Actor keeps its biases repeated for every row


def quiet() -> np.errstate:
    """Silences NumPy in acting: an overflow is clipped at a bound, or reported by a check with its place."""
    return np.errstate(over="ignore", invalid="ignore")


class Actor:
    """A policy and its frozen observation statistics, acting on raw observations."""

    def __init__(self, policy: Policy, normalizer: Normalizer, config: Normalize):
        # one copy from the device for each rollout, none in its steps
        self._weights = [np.asarray(w) for w in policy.mlp.weight]
        self._biases = [np.asarray(b) for b in policy.mlp.bias]
        self._activation = np.tanh if policy.mlp.activation == "tanh" else _relu
        self._statistics = [np.asarray(normalizer.obs.mean), np.asarray(normalizer.obs.std)]
        self._origin = normalizer.origin
        self._spread = 0, self._statistics, self._biases
        self._scaled, limit = config.obs, config.obs_bound
        self._limits = None if limit is None else (np.float32(-limit), np.float32(limit))
        self._gaussian = isinstance(policy, GaussianPolicy)
        if isinstance(policy, GaussianPolicy):
            self._head_tanh, self._std_min = policy.head_tanh, np.float32(policy.std_min)
            self._predicted = policy.std == "predicted"
            self._std_scale = np.float32(policy.std_init / math.log(2))
            log_std = policy.log_std
            constant = policy.std_init if log_std is None else np.exp(np.asarray(log_std)) + self._std_min
            self._constant_std = np.asarray(constant, np.float32)

    def act(
        self, obs: Float[np.ndarray, "N O"], noise: Float[np.ndarray, "N A"] | None = None
    ) -> Shaped[np.ndarray, "N ..."]:
        """Actions in the policy's units: the samples for ``noise``, or greedy ones without it.

        ``noise`` is standard normal for a Gaussian policy and standard Gumbel for a categorical one.
        """
        out = self.forward(obs)
        if not self._gaussian:
            return np.argmax(out if noise is None else out + noise, axis=1)  # see Categorical.draw
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

    def forward(self, obs: Float[np.ndarray, "N O"]) -> Float[np.ndarray, "N outputs"]:
        """The output of the network's last layer for raw observations: means, or logits."""
        x = from_origin(obs, self._origin)  # the only subtraction in float64; all below is float32
        (mean, std), (*biases, last) = self._for_rows(len(obs))
        if self._scaled:
            x = (x - mean) / std
        if self._limits is not None:
            low, high = self._limits
            x = np.maximum(np.minimum(x, high), low)
        for weight, bias in zip(self._weights, biases, strict=False):
            x = x.dot(weight)  # a microsecond less than x @ weight, the same bits
            x += bias  # in place, as the activation: a new array costs more than its sum
            self._activation(x, out=x)
        return x.dot(self._weights[-1]) + last

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


def _relu(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    return np.maximum(x, np.float32(0), out=out)
