"""What every backend offers: N environments stepped together, each episode with a seed of its own."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Shaped

from poise.errors import PoiseError
from poise.spec import Spec


def usual_dtype(dtype: np.dtype) -> type[np.floating]:
    """The float type that keeps the digits of an observation: float64 where float32 has too few."""
    narrow = dtype.itemsize < 4 or dtype == np.float32
    return np.float32 if narrow else np.float64


class EnvStep(NamedTuple):
    """What one step of every environment returned. No reset happens inside a step.

    Arrays of NumPy, or of JAX inside a compiled rollout. The record stands here and not in ``types.py`` so
    that a process which only steps an environment never loads JAX.
    """

    next_obs: Float[Any, "N O"]  # where the action led
    reward: Float[Any, " N"]
    terminated: Bool[Any, " N"]
    truncated: Bool[Any, " N"]


class Restored(NamedTuple):
    """The current observation of all N, and which of them are for certain where they were.

    Of those the observation is that of the snapshot, bit for bit, unless the environment does not repeat
    itself: that is the caller's to compare. ``unlike``: what else is not as it was, a sentence each. What
    follows may then be other than without the snapshot.
    """

    obs: Float[np.ndarray, "N O"]
    exact: Bool[np.ndarray, " N"]
    unlike: tuple[str, ...] = ()


class EnvError(PoiseError):
    """An environment that cannot be made: unknown, unsupported or not available to a backend."""


@runtime_checkable
class VectorEnv(Protocol):
    """N environments of one kind.

    ``step`` never resets: after an end the caller resets that environment before it steps again.
    The start of an episode is a function of its seed alone, so it can be had again.
    """

    spec: Spec
    num_envs: int
    backend: str  # what to show on the terminal, for example "mujoco (2 threads)"

    def reset(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> Float[np.ndarray, "N O"]:
        """Begins an episode in each environment of ``mask``, ``seeds`` in their order.

        Returns the current observation of all N, also of those that were not reset.
        """
        ...

    def step(self, action: Shaped[np.ndarray, "N ..."]) -> EnvStep:
        """One step of all N. ``action`` is in the environment's units, or an index where discrete."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Restorable(Protocol):
    """A vector environment whose state can be had, and gone on from. Every backend of ``make`` is one."""

    def snapshot(self) -> dict[str, np.ndarray]:
        """Where all N are now: all that ``restore`` needs. Copies, which do not change later."""
        ...

    def restore(self, arrays: Mapping[str, np.ndarray]) -> Restored:
        """Goes on from a ``snapshot`` of the same environment, also in another process.

        Raises:
            ArraysError: these arrays are no snapshot of this environment.
        """
        ...
