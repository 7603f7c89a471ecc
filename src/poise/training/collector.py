"""What every way to collect rollouts has in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from poise.algo.networks import Policy
from poise.algo.normalize import Normalizer
from poise.envs.vector import Crash
from poise.spec import Episode, Spec
from poise.types import Rollout


@dataclass(frozen=True)
class Group:
    """Environments ``first`` to ``first + num_envs - 1`` of ``total``, which are collected independently.

    They have their own seeds, noise and array shapes: it changes no bit in which process they are collected.
    """

    index: int
    first: int
    num_envs: int
    total: int


class Collected(NamedTuple):
    rollout: Rollout
    episodes: list[Episode]  # that ended in this rollout, in the order of their ends
    physics_seconds: float | None  # stepping and resetting; None where that is one with acting
    crashes: tuple[Crash, ...] = ()  # of environments that were made again
    notes: tuple[str, ...] = ()  # lines for the user
    exact: bool = True  # whether the rollout is the one that would have been without any failure
    metrics: Mapping[str, float] = {}  # of the collector, besides those of every rollout


class Started(NamedTuple):
    """A rollout whose arrays may not be computed yet."""

    rollout: Rollout
    finish: Callable[[], Collected]  # waits for it, checks it and lists its episodes


@runtime_checkable
class Starting(Protocol):
    """A collector whose rollouts are computed on a device of JAX, while this process does something else."""

    def start(self, policy: Policy, normalizer: Normalizer, iteration: int) -> Started:
        """``Collector.collect`` in two parts. The second parts follow in the order of the first.

        ``snapshot`` is that at the end of the last finished rollout, whichever have been started.
        """
        ...


@runtime_checkable
class Collector(Protocol):
    """Has the environments, and keeps them between rollouts."""

    @property
    def spec(self) -> Spec: ...

    @property
    def num_envs(self) -> int: ...

    @property
    def backend(self) -> str:
        """For the terminal."""
        ...

    def collect(self, policy: Policy, normalizer: Normalizer, iteration: int) -> Collected:
        """``T`` steps of ``N`` environments with the sampling policy.

        Raises:
            TrainingError: the policy has diverged: an action is infinite or NaN.
            EnvFault: an environment failed, or returned infinity or NaN.
        """
        ...

    def snapshot(self) -> dict[str, Any] | None:
        """The state of the environments and of their unfinished episodes; None if they cannot report it."""
        ...

    def restore(self, arrays: Mapping[str, Any]) -> bool:
        """Continues from a ``snapshot``. Returns whether everything is exactly as it was.

        An environment that cannot be restored exactly starts its next episode.

        Raises:
            ArraysError: the arrays are not a snapshot of these environments.
        """
        ...

    def close(self) -> None: ...
