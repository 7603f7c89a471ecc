"""What is known of an environment and of its episodes, without importing JAX."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Spec:
    """What an agent must know of its environment: shapes, bounds and the time limit.

    Observations and continuous actions of any shape are flattened in C order between the
    environment and the networks. ``action_low`` and ``action_high`` are the environment's bounds,
    one per dimension. A discrete action has ``num_choices`` values from ``first_choice`` on.
    ``time_limit`` is in steps; None where episodes have no limit.
    """

    id: str
    obs_shape: tuple[int, ...]
    action_shape: tuple[int, ...] = ()
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    num_choices: int | None = None
    first_choice: int = 0
    time_limit: int | None = None

    @property
    def discrete(self) -> bool:
        return self.num_choices is not None

    @property
    def obs_size(self) -> int:
        """Entries of one observation, O."""
        return math.prod(self.obs_shape)

    @property
    def action_size(self) -> int:
        """Dimensions of a continuous action, or choices of a discrete one, A."""
        return math.prod(self.action_shape) if self.num_choices is None else self.num_choices


@dataclass(frozen=True)
class Episode:
    """One finished episode: raw return, length in steps, and the run's step at which it ended."""

    env: int
    index: int
    step: int
    episodic_return: float
    length: int
    terminated: bool
