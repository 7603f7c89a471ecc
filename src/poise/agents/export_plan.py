"""The greedy policy as plain arithmetic: what an export writes down, in whatever format."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Float

from poise.algo.encoders import MLP, ImageEncoder
from poise.algo.memory import AnyMemory
from poise.algo.networks import Policy
from poise.algo.normalize import RunningStats
from poise.config import Activation, Normalize
from poise.errors import PoiseError
from poise.spec import Leaf, Part, Spec
from poise.store.checkpoint import Manifest, Trained
from poise.training.acting import ActionScale

CARRY, CARRY_OUT = "carry", "carry_out"  # what goes into a graph with a memory and what comes out

_Named = TypeVar("_Named", Leaf, Part)


class ExportError(PoiseError):
    """The export cannot be made."""


class ParityError(PoiseError):
    """The exported policy does not act as the agent does."""

    exit_code = 1


@dataclass(frozen=True)
class ImagePlan:
    """From an image to features.

        x = (pixels - low) * (1 / (high - low)), then (x - mean) / std of each channel
        features = what the encoder makes of x

    Attributes:
        encoder: bounds of the pixels, and layers in the order in which ``ImageEncoder`` has them.
        mean, std: statistics of each channel; None: pixels from 0 to 1 are not normalized.
    """

    encoder: ImageEncoder
    mean: Float[np.ndarray, " C"] | None
    std: Float[np.ndarray, " C"] | None


@dataclass(frozen=True)
class Plan:
    """The greedy policy as arithmetic.

        x = clip((numbers - origin - mean) / std, -limit, limit), without the clip where they are one-hot
        x = x and the features of each image, side by side
        carry = the memory's step from x and the carry; x = x and its output, side by side
        x = the layers applied to x, with the activation between them
        box = x, then a tanh if ``head_tanh``; clip(center + scale * box, low, high)
        choices = argmax of the logits of each choice, where the mask allows them, + the lowest value

    The first columns of the last layer are for the boxes, the others are logits.

    Attributes:
        spec: of the environment.
        inputs: by name, the leaves that the policy reads, and the mask.
        outputs: by name, the parts of the action.
        origin: subtracted from the numbers in float64, before they are rounded to float32; None: nothing.
        mean, std: statistics of the numbers minus the origin, 0 and 1 where they are one-hot; None: they are
            not normalized.
        limit: bound of a normalized number; None: no bound.
        images: in the order of their features.
        memory: a GRU, an LSTM (``poise.algo.memory.Cell``) or a ``Window``; None: no memory.
        layers: weights ``[inputs, outputs]`` and biases. The outputs that predict a standard deviation
            are left out.
        layer_norm, residual: as ``poise.algo.encoders.MLP`` has them.
        head_tanh: whether a tanh follows the last layer.
        center, scale, low, high: from the policy's boxes to the environment's; None without boxes.
        about: environment, steps, seed and shapes, for the reader of the file.
    """

    spec: Spec
    inputs: dict[str, Leaf]
    outputs: dict[str, Part]
    origin: Float[np.ndarray, " O"] | None
    mean: Float[np.ndarray, " O"] | None
    std: Float[np.ndarray, " O"] | None
    limit: float | None
    images: tuple[ImagePlan, ...]
    memory: AnyMemory | None
    layers: tuple[tuple[Float[np.ndarray, "_ _"], Float[np.ndarray, " _"]], ...]
    activation: Activation
    layer_norm: bool
    residual: bool
    head_tanh: bool
    center: Float[np.ndarray, " A"] | None
    scale: Float[np.ndarray, " A"] | None
    low: Float[np.ndarray, " A"] | None
    high: Float[np.ndarray, " A"] | None
    about: dict[str, Any]

    @property
    def numbers(self) -> dict[str, Leaf]:
        """The inputs whose numbers stand side by side."""
        return {name: leaf for name, leaf in self.inputs.items() if leaf.width}

    @property
    def mask(self) -> Leaf | None:
        return next((leaf for leaf in self.inputs.values() if leaf.kind == "mask"), None)

    @property
    def bounds(self) -> Float[np.ndarray, "..."] | None:
        """The bound of all numbers, or of each if some are one-hot; infinite where there is none."""
        if self.limit is None:
            return None
        leaves = self.numbers.values()
        one_hot = np.repeat([leaf.kind == "one_hot" for leaf in leaves], [leaf.width for leaf in leaves])
        if not one_hot.any():
            return np.array(self.limit, np.float32)
        return np.where(one_hot, np.inf, self.limit).astype(np.float32)


def is_bytes(leaf: Leaf) -> bool:
    """Whether the pixels of an image are bytes: a spec has their bounds, not their type."""
    return (leaf.low, leaf.high) == (0, 255)


def reads_one_vector(inputs: Mapping[str, Leaf]) -> bool:
    """Whether the observation is one array of numbers."""
    leaf = next(iter(inputs.values()))
    return len(inputs) == 1 and leaf.kind == "vector" and not leaf.path


def gives_one_array(outputs: Mapping[str, Part]) -> bool:
    """Whether the action is one box or one Discrete."""
    part = next(iter(outputs.values()))
    return len(outputs) == 1 and not part.path and (part.is_box or part.shape == ())


def make_plan(trained: Trained, manifest: Manifest) -> Plan:
    """The plan of an agent."""
    trained = jax.tree.map(np.asarray, trained)  # images in the order in which compiled code has them
    policy, spec, config = trained.policy, manifest.spec, manifest.config
    mlp = policy.mlp
    assert isinstance(mlp, MLP)
    taken = set() if policy.memory is None else {CARRY, CARRY_OUT}
    inputs = _named([leaf for leaf in spec.obs if _reads(policy, leaf, spec)], "obs", taken)
    outputs = _named(spec.action, "action", taken)
    about = {"env": manifest.env, "steps": manifest.steps, "seed": config.seed}
    return Plan(
        spec=spec,
        inputs=inputs,
        outputs=outputs,
        **_numbers(trained, config.normalize, spec, inputs),
        images=tuple(
            ImagePlan(encoder, *_statistics(trained.normalizer.images[name], config.normalize.obs))
            for name, encoder in policy.encoder.images.items()
        ),
        memory=policy.memory,
        layers=_layers(policy, mlp),
        activation=mlp.activation,
        layer_norm=mlp.layer_norm,
        residual=mlp.residual,
        head_tanh=policy.box_size > 0 and policy.head_tanh != "none",
        **_scaling(spec, config.normalize.action),
        about=about | _describe_inputs(inputs) | _describe_outputs(outputs),
    )


def _reads(policy: Policy, leaf: Leaf, spec: Spec) -> bool:
    """Whether the policy reads this leaf."""
    if leaf.kind in ("image", "mask"):
        return leaf.kind == "mask" or leaf.name in policy.encoder.images
    columns = policy.encoder.columns
    return columns is None or spec.columns(leaf.name).start in columns


def _named(arrays: Iterable[_Named], prefix: str, taken: set[str]) -> dict[str, _Named]:
    """Leaves or parts by names that differ from all others; these names are then taken, too."""
    named = {}
    for array in arrays:
        name = array.name.encode("utf-8", "replace").decode()  # names come from a file
        while not name or name in taken:
            name = f"{prefix}.{name}"
        taken.add(name)
        named[name] = array
    return named


def _numbers(
    trained: Trained, normalize: Normalize, spec: Spec, inputs: Mapping[str, Leaf]
) -> dict[str, Any]:
    """``origin``, ``mean``, ``std`` and ``limit`` of the numbers that the policy reads."""
    read = [leaf in inputs.values() for leaf in spec.obs]
    columns = np.repeat(read, [leaf.width for leaf in spec.obs])
    one_hot = spec.one_hot[columns]
    if one_hot.all():  # also if there are none
        return dict.fromkeys(("origin", "mean", "std", "limit"))
    origin = trained.normalizer.origin
    mean, std = _statistics(trained.normalizer.obs, normalize.obs)
    return {
        "origin": None if origin is None else np.asarray(origin, np.float32)[columns],
        "mean": None if mean is None else np.where(one_hot, np.float32(0), mean[columns]),
        "std": None if std is None else np.where(one_hot, np.float32(1), std[columns]),
        "limit": normalize.obs_bound,
    }


def _statistics(
    stats: RunningStats, enabled: bool
) -> tuple[Float[np.ndarray, " S"] | None, Float[np.ndarray, " S"] | None]:
    """Mean and deviation; None without normalization."""
    if not enabled:
        return None, None
    return np.asarray(stats.mean, np.float32), np.asarray(stats.std, np.float32)


def _layers(policy: Policy, mlp: MLP) -> tuple[tuple[Float[np.ndarray, "_ _"], Float[np.ndarray, " _"]], ...]:
    """Weights and biases, in the last layer without the outputs for a standard deviation."""
    *layers, (weight, bias) = zip(mlp.weight, mlp.bias, strict=True)
    outputs = np.arange(len(bias))
    kept = (outputs < policy.box_size) | (outputs >= len(bias) - sum(policy.sizes))
    layers.append((weight[:, kept], bias[kept]))
    return tuple((np.asarray(w, np.float32), np.asarray(b, np.float32)) for w, b in layers)


def _scaling(spec: Spec, normalize: bool) -> dict[str, Any]:
    """``center``, ``scale``, ``low`` and ``high`` of the boxes."""
    names = ("center", "scale", "low", "high")
    if not spec.boxes:
        return dict.fromkeys(names)
    bounds = ActionScale(spec, normalize=normalize)
    return {name: getattr(bounds, name)[: spec.box_size] for name in names}


def _describe_inputs(inputs: Mapping[str, Leaf]) -> dict[str, Any]:
    if reads_one_vector(inputs):
        return {"obs_shape": list(inputs["obs"].shape)}
    return {"observations": [_described(name, leaf) for name, leaf in inputs.items()]}


def _describe_outputs(outputs: Mapping[str, Part]) -> dict[str, Any]:
    if gives_one_array(outputs):
        (part,) = outputs.values()
        return {"action_shape": list(part.shape), "first_choice": part.first[0] if part.first else 0}
    return {"actions": [_described(name, part) for name, part in outputs.items()]}


def _described(name: str, array: Leaf | Part) -> dict[str, Any]:
    """For the reader of a file: the name, where it stands, and what it is."""
    kind = array.kind if isinstance(array, Leaf) else "box" if array.is_box else "choices"
    described = {"name": name, "path": list(array.path), "kind": kind, "shape": list(array.shape)}
    return described | ({"sizes": list(array.sizes), "first": list(array.first)} if array.sizes else {})
