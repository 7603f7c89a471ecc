"""What every way to collect rollouts has in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from poise.algo.networks import Policy
from poise.algo.normalize import Normalizer
from poise.envs.checking import Crash
from poise.spec import Episode, Spec
from poise.types import Rollout


@dataclass(frozen=True)
class Shard:
    """Environments ``first`` to ``first + num_envs - 1`` of all ``total``, which are collected by themselves.

    With seeds, noise and array shapes of its own: where it is collected, and beside what, changes no bit.
    """

    index: int
    first: int
    num_envs: int
    total: int


class Collected(NamedTuple):
    rollout: Rollout
    episodes: list[Episode]  # those that ended in it, in the order of their ends
    physics_seconds: float | None  # stepping and resetting; None where that is one with acting
    crashes: tuple[Crash, ...] = ()  # of environments that were made again
    notes: tuple[str, ...] = ()  # what is to be said, a line each
    exact: bool = True  # whether it is what it would have been had nothing failed


@runtime_checkable
class Collector(Protocol):
    """Holds the world between rollouts."""

    @property
    def spec(self) -> Spec: ...

    @property
    def num_envs(self) -> int: ...

    @property
    def backend(self) -> str:
        """What to show on the terminal."""
        ...

    def collect(self, policy: Policy, normalizer: Normalizer, iteration: int) -> Collected:
        """``T`` steps of ``N`` environments with the sampling policy.

        Raises:
            TrainingError: the policy has diverged so far that its actions are no numbers.
            EnvFault: an environment failed, or returned what is no number.
        """
        ...

    def snapshot(self) -> dict[str, Any] | None:
        """The world as it is now, what its unfinished episodes have gathered; None where it cannot tell."""
        ...

    def restore(self, arrays: Mapping[str, Any]) -> bool:
        """Goes on from a ``snapshot``. Whether all is exactly as it was.

        An environment that cannot be restored exactly starts its next episode.

        Raises:
            ArraysError: these arrays are no snapshot of this world.
        """
        ...

    def close(self) -> None: ...
