"""The interface of every backend: N environments stepped together, each episode with its own seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Shaped

from poise.envs.packing import Obs
from poise.errors import PoiseError
from poise.spec import Spec


class EnvStep(NamedTuple):
    """The result of one step of all N environments. A step never resets an environment.

    The arrays are NumPy's, or JAX's inside a compiled rollout. This record is not in ``types.py``, so that a
    process that only steps an environment does not load JAX.
    """

    next_obs: Any  # where the action led, as ``reset`` returns observations
    reward: Float[Any, " N"]
    terminated: Bool[Any, " N"]
    truncated: Bool[Any, " N"]


class Restored(NamedTuple):
    """The state of all N environments after ``restore``.

    Attributes:
        obs: the current observations.
        exact: which environments are where they were. Their observation equals that of the snapshot, bit for
            bit, unless the environment is not repeatable: the caller compares.
        unlike: what else differs from the snapshot, one sentence each. The next steps may then differ from
            those of a training that was not interrupted.
    """

    obs: Obs
    exact: Bool[np.ndarray, " N"]
    unlike: tuple[str, ...] = ()


class EnvError(PoiseError):
    """An environment that cannot be made: unknown, unsupported or not available to a backend."""


@runtime_checkable
class VectorEnv(Protocol):
    """N environments of one kind.

    ``step`` never resets: after the end of an episode the caller resets that environment before the next
    step. The start of an episode is a function of its seed alone, so it can be repeated.
    """

    spec: Spec
    num_envs: int
    backend: str  # what to show on the terminal, for example "mujoco (2 threads)"

    def reset(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> Obs:
        """Start an episode in each environment of ``mask``, with ``seeds`` in the same order.

        Returns the current observations of all N, also of those that were not reset: an array of numbers
        ``[N, O]``, or a dictionary with images and a mask (``poise.spec.Spec``).
        """
        ...

    def step(self, action: Shaped[np.ndarray, "N ..."]) -> EnvStep:
        """One step of all N. ``action``: rows in the environment's units, choices as indices from 0."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Informed(Protocol):
    """A vector environment that keeps what its environments returned besides the numbers."""

    def info(self, env: int) -> dict[str, Any]:
        """Of the last step or reset of one of the N."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """A vector environment that keeps the numbers of its environments' infos (``poise.envs.info``)."""

    def episode_info(self, env: int) -> Mapping[str, float]:
        """Of the running episode of one of the N, or of the one that the last step ended."""
        ...


@runtime_checkable
class Restorable(Protocol):
    """A vector environment whose state can be saved and restored, as every backend of ``make``."""

    def snapshot(self) -> dict[str, np.ndarray]:
        """The state of all N, as ``restore`` needs it: copies, which do not change later."""
        ...

    def restore(self, arrays: Mapping[str, np.ndarray]) -> Restored:
        """Continue from a ``snapshot`` of the same environment, also one of another process.

        Raises:
            ArraysError: these arrays are not a snapshot of this environment.
        """
        ...


@dataclass(frozen=True, eq=False)
class Crash:
    """An episode that ended in a fault, with all that is needed to play it again."""

    env: str
    index: int  # number of the environment
    seed: int  # of the episode
    step: int  # in which it failed, counted from 1; 0: at the reset
    what: str  # the message
    trace: str  # the traceback
    actions: np.ndarray  # [steps, ...] as passed to the environment; the last one is the action that failed
