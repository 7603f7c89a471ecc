"""The greedy policy as plain arithmetic: what an export writes down, in whatever format."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from poise.algo.networks import GaussianPolicy
from poise.errors import PoiseError
from poise.store.checkpoint import Manifest, Trained
from poise.training.acting import ActionScale


class ExportError(PoiseError):
    """The export cannot be made."""


class ParityError(PoiseError):
    """The exported policy does not act as the agent does."""

    exit_code = 1


@dataclass(frozen=True)
class Plan:
    """The greedy policy as arithmetic.

        x = clip((obs - origin - mean) / std, -limit, limit)
        x = the layers applied to x, with the activation between them, then a tanh if ``head_tanh``
        action = clip(center + scale * x, low, high), or argmax(x) + ``first_choice`` if discrete

    Attributes:
        origin: subtracted from an observation in float64, before it is rounded to float32; None: nothing.
        mean, std: statistics of the observations minus the origin; None: they are not normalized.
        limit: bound of a normalized observation; None: no bound.
        layers: weights ``[inputs, outputs]`` and biases. The outputs that predict a standard deviation
            are left out.
        head_tanh: whether a tanh follows the last layer.
        center, scale, low, high: from the last layer's output to the environment's action; None if actions
            are discrete.
        about: environment, steps, seed, shapes and ``first_choice``, for the reader of the file.
    """

    origin: Float[np.ndarray, " O"] | None
    mean: Float[np.ndarray, " O"] | None
    std: Float[np.ndarray, " O"] | None
    limit: float | None
    layers: tuple[tuple[Float[np.ndarray, "_ _"], Float[np.ndarray, " _"]], ...]
    activation: Literal["tanh", "relu"]
    head_tanh: bool
    center: Float[np.ndarray, " A"] | None
    scale: Float[np.ndarray, " A"] | None
    low: Float[np.ndarray, " A"] | None
    high: Float[np.ndarray, " A"] | None
    about: dict[str, Any]

    @property
    def discrete(self) -> bool:
        return self.scale is None


def make_plan(trained: Trained, manifest: Manifest) -> Plan:
    """The plan of an agent."""
    policy, spec, config = trained.policy, manifest.spec, manifest.config
    weights, biases = ([np.asarray(x, np.float32) for x in xs] for xs in (policy.mlp.weight, policy.mlp.bias))
    size = spec.action_size  # the outputs after these predict the standard deviation
    weights[-1], biases[-1] = weights[-1][:, :size], biases[-1][:size]
    bounds = None if spec.discrete else ActionScale(spec, normalize=config.normalize.action)
    stats = trained.normalizer.obs if config.normalize.obs else None
    origin = trained.normalizer.origin
    return Plan(
        origin=None if origin is None else np.asarray(origin, np.float32),
        mean=None if stats is None else np.asarray(stats.mean, np.float32),
        std=None if stats is None else np.asarray(stats.std, np.float32),
        limit=config.normalize.obs_bound,
        layers=tuple(zip(weights, biases, strict=True)),
        activation=policy.mlp.activation,
        head_tanh=isinstance(policy, GaussianPolicy) and policy.head_tanh != "none",
        center=bounds and bounds.center,
        scale=bounds and bounds.scale,
        low=bounds and bounds.low,
        high=bounds and bounds.high,
        about={
            "env": manifest.env,
            "steps": manifest.steps,
            "seed": config.seed,
            "obs_shape": list(spec.obs_shape),
            "action_shape": list(spec.action_shape),
            "first_choice": spec.first_choice,
        },
    )
