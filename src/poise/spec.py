"""What is known of an environment and of its episodes, without importing JAX."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Spec:
    """What an agent must know of its environment: shapes, bounds and the time limit.

    ``obs_size`` counts the entries of one observation; higher ranks are flattened in C order.
    ``action_size`` is the number of dimensions of a continuous action, or the number of choices of
    a discrete one. ``action_low`` and ``action_high`` (continuous only) are the environment's
    bounds, one per dimension. ``time_limit`` is in steps; None where episodes have no limit.
    """

    id: str
    obs_size: int
    action_size: int
    discrete: bool
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    time_limit: int | None = None


@dataclass(frozen=True)
class Episode:
    """One finished episode: raw return, length in steps, and the run's step at which it ended."""

    env: int
    index: int
    step: int
    episodic_return: float
    length: int
    terminated: bool
