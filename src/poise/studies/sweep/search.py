"""The options of a sweep.

The docstring under a field is the text that ``poise sweep --help`` shows for it.
"""

from dataclasses import dataclass, field

from poise.checked import Checked

FEWEST_SEEDS = 3  # of a trial: an interquartile mean of fewer is a mean


@dataclass(frozen=True, kw_only=True)
class Search(Checked):
    """What a sweep searches, with how many trainings, and where its trials are stored."""

    search: tuple[str, ...] = field(default=(), metadata={"metavar": "OPTION[=VALUES]..."})
    """Search these options instead of the usual ones: ppo.clip (its usual values), ppo.clip=0.1,0.2,
    ppo.lam=0.9:0.98, ppo.policy-learning-rate=1e-4:1e-2:log, ppo.gamma=0.9:0.999:horizon (evenly in the
    logarithm of the horizon, 1/(1 - gamma))."""
    trials: int = 50
    """Number of settings, including the defaults; counted over all processes that share a storage."""
    seeds: int = FEWEST_SEEDS
    """Trainings of each setting, at least 3, with consecutive seeds starting at --seed."""
    final_seeds: int = 10
    """Trainings of the best setting and of the defaults at the end, with the seeds after those."""
    at_once: int = 4
    """Trials drawn together, before the result of any of them is known. Affects the result."""
    objective: str = field(default="return", metadata={"metavar": "NAME"})
    """What is maximized, of the greedy episodes: return, success_rate, or a name in its infos."""
    prune: bool = True
    """Whether to stop a trial that falls behind the median of the trials before it."""
    storage: str | None = field(default=None, metadata={"metavar": "URL"})
    """Storage shared by several machines, sqlite:///FILE or postgresql://.... Each machine that runs the same
    command takes trials from it; the result then depends on their timing."""
    study: str | None = field(default=None, metadata={"metavar": "NAME"})
    """Name of the sweep in that storage; by default the name of the environment."""
