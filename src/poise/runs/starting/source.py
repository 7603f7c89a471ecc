"""The agent of another run that a training starts from: its parts, and the options that must be its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from poise.arrays import named
from poise.checked import ConfigError, flat
from poise.config import Config
from poise.spec import Spec
from poise.store.checkpoint import Trained, agent_folder, load_agent
from poise.store.manifest import Manifest, read_manifest

_LAYERS = (
    "network",
    "hidden",
    "activation",
    "layer_norm",
    "residual",
    "images",
    "see",
    "memory",
    "memory_size",
    "init",
)
_OUTPUTS = ("std", "std_init", "std_min", "head_tanh")
# what shapes a part, what its numbers mean, and what has no effect on one that is taken: these options are
# those of the agent
OF_PARTS = {
    "policy": (
        *(f"policy.{name}" for name in (*_LAYERS, *_OUTPUTS)),
        *("history", "normalize.obs", "normalize.action"),
    ),
    "value": (*(f"value.{name}" for name in _LAYERS), "history", "normalize.obs", "normalize.reward"),
    "normalizer": ("normalize.obs", "normalize.first_rollout"),
}
# these follow the agent, too, and may be given
BOUNDS = {
    "policy": ("normalize.obs_clip",),
    "value": ("normalize.obs_clip", "normalize.reward_clip"),
    "normalizer": (),
}


@dataclass(frozen=True)
class Source:
    """The agent in the folder of a run, or in one checkpoint."""

    folder: str  # as it was given
    trained: Trained
    manifest: Manifest

    def check(self, config: Config, spec: Spec) -> None:
        """Refuses a training that cannot start from this agent. ``config`` is settled.

        Raises:
            ConfigError: the spaces or an option of the networks are others.
        """
        name = f"start_from = {self.folder!r}"
        if problem := self.manifest.spec.problem_with(spec):
            raise ConfigError(f"{name}: {spec.id} has {problem}")
        ours, theirs = flat(config.to_dict()), flat(self.manifest.config.to_dict())
        for option in options_of(config.start_parts):
            if ours[option] != theirs[option]:
                raise ConfigError(
                    f"{option} = {_written(ours[option])}: must be {_written(theirs[option])}, as {name} has "
                    "it; leave the option out, or name only other parts in start_parts"
                )

    def arrays(self, parts: Sequence[str]) -> dict[str, Any]:
        """The arrays of these parts, by their names in a ``Trained``."""
        arrays = named(self.trained)
        return {name: np.asarray(a) for name, a in arrays.items() if name.partition(".")[0] in parts}

    def describe(self, parts: Sequence[str]) -> str:
        """What a training takes from it, in a line."""
        manifest = self.manifest
        return f"starts from {self.folder} ({manifest.env}, step {manifest.steps:,}): {', '.join(parts)}"


def read_source(folder: str) -> Source:
    """The agent in a run folder, its last one, or in a checkpoint. Executes nothing in it.

    Raises:
        CheckpointError: there is none, or it was changed or damaged.
    """
    return Source(folder, *load_agent(agent_folder(Path(folder))))


def read_source_manifest(folder: str) -> Manifest:
    """``read_source`` without the arrays."""
    return read_manifest(agent_folder(Path(folder)))


def options_of(parts: Sequence[str]) -> list[str]:
    """The options, by their dotted names, that a training from these parts of an agent shares with it."""
    return list(dict.fromkeys(name for part in parts for name in OF_PARTS[part]))


def followed(folder: str, parts: Sequence[str]) -> dict[str, Any]:
    """The values that ``options_of``, and the bounds of inputs, have if they are not given."""
    values = flat(read_source_manifest(folder).config.to_dict())
    bounds = [name for part in parts for name in BOUNDS[part]]
    return {name: values[name] for name in (*options_of(parts), *bounds)}


def _written(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "x".join(map(str, value))
    return str(value)
