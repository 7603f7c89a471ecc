"""What is done with a training beside the learning: where it runs, what is kept, what is shown.

The docstring under a field is the text that ``poise train --help`` shows for it.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from poise.checked import Bound, Checked, ConfigError, Count, Positive, from_dict
from poise.spec import Backend


@dataclass(frozen=True, kw_only=True)
class Options(Checked):
    """Everything about a training that does not change what is learned."""

    backend: Backend = "auto"
    """What steps the environments; auto takes the fastest that has ENV."""
    out: Path = Path("runs")
    """The folder in which run folders are made."""
    evaluate: bool = True
    """Whether the greedy agent plays 100 episodes at the end, and the best agent is chosen."""
    video: bool = True
    """Whether the greedy agent is filmed at the end."""
    log_every: Count = 200
    """Log every n-th environment step to TensorBoard."""
    checkpoint_every: Count | None = None
    """Environment steps between two checkpoints; None: one when 10 seconds have passed since the last."""
    eval_every: Count | None = None
    """Environment steps between two greedy scores while training, in greedy.csv; None: none."""
    eval_episodes: Count = 20
    """Episodes of each of these scores."""
    eval_max_steps: Count | None = None
    """Environment steps of the score at the end, with the choice of the best agent. What does not fit leaves
    fewer episodes, or cuts those without end. None: a quarter of the training's, more where 100 usual
    episodes need more (docs/reading.md)."""
    eval_max_seconds: Positive | None = None
    """Seconds after which no further episode of it begins, and the score is of fewer. None: a quarter of the
    training's, at least 60; no such limit where --eval-max-steps is given."""
    on_crash: Literal["stop", "restart"] = "stop"
    """What happens when an environment in a process of its own (gymnasium-async) fails, dies or hangs: the
    training stops, or the environment is made again, starts its next episode, and the training continues."""
    env_timeout: Positive = 60.0
    """Seconds that an environment in a process of its own has for one step or reset."""
    workers: Annotated[int, Bound(ge=0, le=10**6)] = 0
    """Processes of a cluster (--ray) that step the environments, each some of the --num-shards; 0: this one
    does. A process that dies is replaced. The result is the same with any number."""
    compile_cache: bool = True
    """Whether what was compiled is kept in the user's cache folder, for a faster next start."""

    def check_against(self, backend: str) -> None:
        """Refuses options that have no effect on this backend.

        Raises:
            ConfigError: names the first.
        """
        usual = Options()
        if backend != "gymnasium-async":
            for name in ("on_crash", "env_timeout"):
                if getattr(self, name) != getattr(usual, name):
                    raise ConfigError(
                        f"{name} = {getattr(self, name)!r}: has no effect on backend {backend}, whose "
                        "environments share one process; --backend gymnasium-async gives each its own"
                    )
        for name in ("eval_max_steps", "eval_max_seconds"):
            if not self.evaluate and getattr(self, name) is not None:
                raise ConfigError(
                    f"{name} = {getattr(self, name)!r}: has no effect without a score at the end"
                )
        if self.eval_every is None and self.eval_episodes != usual.eval_episodes:
            raise ConfigError(f"eval_episodes = {self.eval_episodes!r}: has no effect without eval_every")

    def to_dict(self) -> dict[str, Any]:
        """What a resumed run needs of them: all but the folder."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "out"}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Options":
        """The options that ``to_dict`` (or JSON made of it) describes.

        Raises:
            ConfigError: names the first that is unknown or has a wrong value.
        """
        return from_dict(cls, {**data, "out": Path("runs")}, "options.")
