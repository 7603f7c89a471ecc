"""What a training is made of: its setup, its past, and the conditions under which it runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from poise import envs
from poise.agents.best import Candidate
from poise.checked import ConfigError, shown
from poise.config import Config
from poise.envs.forms.text import parse
from poise.placement.lanes import Lanes
from poise.runs.options import Options
from poise.spec import Episode, Spec
from poise.store.checkpoint import Manifest
from poise.system.interrupts import Guard
from poise.system.peers import Peers
from poise.system.streams import TextOut
from poise.training.iteration import Progress

PARTS = ("import", "compile", "rollout", "learn", "prepare", "log", "evaluate", "film")


@dataclass(frozen=True)
class Setup:
    """All that decides the result of a training, and what is written of it.

    Attributes:
        task: the environment, and what steps it.
        spec: of the environment.
        config: every option with its number.
        options: what is done beside the learning.
    """

    task: envs.Resolved
    spec: Spec
    config: Config
    options: Options

    @property
    def total_steps(self) -> int:
        """Environment steps that the training will have at its end: whole iterations of the budget."""
        return self.config.num_iterations * self.config.rollout_size

    def manifest(self, steps: int, notes: Mapping[str, Any] | None = None) -> Manifest:
        """What describes a checkpoint of this training after so many steps."""
        return Manifest(self.task.id, self.task.backend, steps, self.spec, self.config, notes or {})

    def to_dict(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        placed = {name: getattr(self.options, name) for name in ("device", "matmul_precision", "together")}
        return {
            **parse(self.task.id).to_dict(),
            "backend": self.task.backend,
            **placed,
            **self.config.to_dict(),
        }


class Stopped(NamedTuple):
    """What has ended a training before its budget was used up.

    Attributes:
        by: the option, ``on_iteration``, or the user's own loop.
        reason: a line; None: none was given.
    """

    by: Literal["stop_at", "max_seconds", "on_iteration", "loop"]
    reason: str | None = None

    def describe(self) -> str:
        """In words that follow ``stopped by``."""
        who = {"stop_at": "--stop-at", "max_seconds": "--max-seconds", "loop": "its own loop"}
        name = who.get(self.by, self.by)
        return name if self.reason is None else f"{name} ({self.reason})"


@dataclass(frozen=True)
class Past:
    """What a resumed training carries over from its checkpoint and its tables; empty for a new training."""

    steps: int = 0
    seconds: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys((*PARTS, "total"), 0.0))
    physics: float | None = None  # seconds of the rollouts; None if they were not measured
    pace: tuple[int, float] = (0, 0.0)  # steps and seconds, each start's first iteration left out
    exact: bool = True  # whether it is bit for bit the training without interruption
    resumed: int = 0  # how often
    crashes: int = 0
    candidates: tuple[Candidate, ...] = ()
    position: Mapping[str, int] = field(default_factory=dict)  # bytes of each table
    made_with: tuple[Mapping[str, Any], ...] = ()  # machine.made_with of each process that trained
    episodes: Sequence[Episode] = ()
    stopped: Stopped | None = None  # by what, if no iteration follows the checkpoint


@dataclass(frozen=True)
class Conditions:
    """What surrounds a training. Nothing of it changes a bit of what an iteration computes.

    Attributes:
        file: where progress is shown.
        guard: raises interrupts, and defers them while files are written (``poise.system.interrupts``).
        import_seconds: the time that loading took before the training was called.
        ray: the cluster of its workers; None: a local one.
        lanes: the program of several trainings, of which this is one; None: it has a program of its own.
        peers: the other processes that are the same training, which this one leads.
        peer_options: the options for these as they are typed, with a leading space.
        on_iteration: is called with each ``Progress`` once its rows are written. It may return ``Stop``.
    """

    file: TextOut
    guard: Guard = field(default_factory=Guard)
    import_seconds: float = 0.0
    ray: str | None = None
    lanes: Lanes | None = None
    peers: Peers | None = None
    peer_options: str = ""
    on_iteration: Callable[[Progress], object] | None = None

    def __post_init__(self) -> None:
        if self.on_iteration is not None and not callable(self.on_iteration):
            raise ConfigError(f"on_iteration = {shown(self.on_iteration)}: must be a function of a Progress")
