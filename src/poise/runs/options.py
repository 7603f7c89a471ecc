"""The options of a training that do not change what is learned: where it runs, what is saved and shown.

The docstring under a field is the text that ``poise train --help`` shows for it.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from poise.checked import Bound, Checked, ConfigError, Count, Positive, from_dict
from poise.spec import IN_JAX, Backend

ABOUT = ("name", "tag", "note")  # what is said about a run, and changes nothing in it
FOLDERS = ("out", "run_dir")
STOPS = ("stop_at", "max_seconds")  # what ends a training before its budget is used up
LONGEST = {"name": 60, "tag": 40, "note": 1000}  # characters
MOST_TAGS = 20


@dataclass(frozen=True, kw_only=True)
class Options(Checked):
    """Everything about a training that does not change what is learned."""

    backend: Backend = "auto"
    """Library that steps the environments; auto: the fastest that supports ENV."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """What the training computes on. auto: the GPU if JAX can use one and there is enough to do at once
    (docs/accelerators.md), unless JAX_PLATFORMS is set; otherwise the CPU. With --seeds, and in experiments
    and sweeps, auto is the CPU."""
    matmul_precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Precision of matrix products on a GPU. tf32 and bfloat16 are faster and keep 3 and 2 digits.
    Refused on a CPU, also where auto chooses it."""
    out: Path = Path("runs")
    """Folder in which the run folders are created."""
    run_dir: Path | None = field(default=None, metadata={"metavar": "DIR"})
    """The run folder itself, for a job that may be started again: it is created, or resumed if it holds this
    training unfinished, or left alone if it is finished. One training only. Without it, --out gets a new
    folder."""
    evaluate: bool = True
    """Whether to play 100 greedy episodes at the end, and to choose the best agent."""
    video: bool = True
    """Whether to make a video of the greedy agent at the end."""
    log_every: Count = 200
    """Log every n-th environment step to TensorBoard."""
    checkpoint_every: Count | None = None
    """Environment steps between two checkpoints; None: a checkpoint every 10 seconds."""
    eval_every: Count | None = None
    """Environment steps between two greedy scores during training, written to greedy.csv; None: no scores."""
    eval_episodes: Count = 20
    """Episodes of each of these scores."""
    eval_max_steps: Count | None = None
    """Environment steps for the score at the end and the choice of the best agent. If they do not suffice,
    there are fewer episodes, or endless ones are cut. None: a quarter of the steps of the training, more if
    100 usual episodes need more (docs/reading.md)."""
    eval_max_seconds: Positive | None = None
    """Seconds after which no further episode of that score starts. None: a quarter of the duration of the
    training, at least 60; no limit if --eval-max-steps is set."""
    stop_at: Annotated[float, Bound(ge=-1e15, le=1e15)] | None = None
    """Mean return (of the last 100 episodes) at which the training stops before its budget is used up, with a
    score and a video as always. Where greedy scores are asked for (--eval-every), it is the mean of such a
    score instead. One training only. None: no such end."""
    max_seconds: Positive | None = None
    """Seconds after which the training stops, at the end of an iteration and in the same way. Those before a
    resume count, too, up to the checkpoint. The score and the video come on top. One training only. None: no
    limit."""
    on_crash: Literal["stop", "restart"] = "stop"
    """What to do when an environment in its own process (gymnasium-async) fails, dies or hangs: stop the
    training, or restart the environment, which then starts its next episode."""
    env_timeout: Positive = 60.0
    """Seconds after which one step or reset of an environment in its own process counts as hanging."""
    workers: Annotated[int, Bound(ge=0, le=10**6)] = 0
    """Processes of a cluster (--ray) that step the environments, each some of the --env-groups; 0: the
    process of the training steps them. A process that dies is replaced. Does not affect the result."""
    devices: Annotated[int, Bound(ge=1, le=2**12)] = 1
    """Devices of JAX that train together, each with some of the --env-groups: environments in JAX only. On a
    CPU the number does not affect the result (docs/accelerators.md)."""
    together: Annotated[int | None, Bound(ge=1, le=2**12)] = None
    """How many of the --seeds one program trains at once (environments in JAX only). Changes the last digits
    of the result (docs/accelerators.md). None: with --device gpu all seeds, 64 at most; otherwise 1."""
    compile_cache: bool = True
    """Whether to keep compiled programs in the user's cache folder, for a faster next start."""
    name: str | None = field(default=None, metadata={"metavar": "NAME"})
    """Name of the run, for the name of its folder, tables and legends."""
    tag: tuple[str, ...] = field(default=(), metadata={"metavar": "TAG..."})
    """Tags by which poise runs finds the run: all words up to the next option, so write ENV before it."""
    note: str | None = field(default=None, metadata={"metavar": "TEXT"})
    """A note about the run, which poise runs and the report show."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, texts in (("name", [self.name]), ("tag", self.tag), ("note", [self.note])):
            for text in texts:
                if text is not None and not (0 < len(text.strip()) <= LONGEST[name] and text.isprintable()):
                    raise ConfigError(
                        f"{name} = {text!r:.100}: must be 1 to {LONGEST[name]} characters in one line"
                    )
                if name != "note" and text is not None and text.startswith("-"):
                    raise ConfigError(f"{name} = {text!r:.100}: must not begin with -, as an option does")
        if len(self.tag) > MOST_TAGS:
            raise ConfigError(f"tag: must be at most {MOST_TAGS}, not {len(self.tag)}")
        if self.run_dir is not None and self.out != Path("runs"):
            raise ConfigError(f"out = {str(self.out)!r}: has no effect with run_dir = {str(self.run_dir)!r}")

    def check_against(self, backend: str) -> None:
        """Refuses options that have no effect on this backend.

        Raises:
            ConfigError: names the first of them.
        """
        defaults = Options()
        if backend != "gymnasium-async":
            for name in ("on_crash", "env_timeout"):
                if getattr(self, name) != getattr(defaults, name):
                    raise ConfigError(
                        f"{name} = {getattr(self, name)!r}: has no effect on backend {backend}, whose "
                        "environments share one process; --backend gymnasium-async gives each its own"
                    )
        if self.device == "cpu" and self.matmul_precision != defaults.matmul_precision:
            raise ConfigError(f"matmul_precision = {self.matmul_precision!r}: has no effect on a CPU")
        if self.devices > 1 and backend not in IN_JAX:
            raise ConfigError(
                f"devices = {self.devices}: must be 1 on backend {backend}; environments in JAX learn on "
                "several"
            )
        self._check_together(backend)
        for name in ("eval_max_steps", "eval_max_seconds"):
            if not self.evaluate and getattr(self, name) is not None:
                raise ConfigError(
                    f"{name} = {getattr(self, name)!r}: has no effect without a score at the end"
                )
        if self.eval_every is None and self.eval_episodes != defaults.eval_episodes:
            raise ConfigError(f"eval_episodes = {self.eval_episodes!r}: has no effect without eval_every")

    def _check_together(self, backend: str) -> None:
        if self.together is None or self.together == 1:
            return
        if backend not in IN_JAX:
            raise ConfigError(
                f"together = {self.together}: must be 1 on backend {backend}; environments in JAX have one "
                "program for several seeds"
            )
        if self.devices > 1:
            raise ConfigError(
                f"together = {self.together}: must be 1 with devices = {self.devices}; several seeds are "
                "one program on one device"
            )

    def refuse_single(self, where: str) -> None:
        """Refuses what is for a single training.

        Args:
            where: what is made instead, with its article.

        Raises:
            ConfigError: names the first of these options.
        """
        if self.run_dir is not None:
            raise ConfigError(
                f"run_dir = {str(self.run_dir)!r}: is the folder of one training; {where} is made under --out"
            )
        for name in STOPS:
            if (value := getattr(self, name)) is not None:
                raise ConfigError(
                    f"{name} = {value:g}: is for one training; {where} compares trainings of equal steps"
                )

    def settled(self) -> "Options":
        """The options of a training, with a number for ``together``: 1, unless somebody has chosen it."""
        return dataclasses.replace(self, together=self.together or 1)

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON, as a resumed run needs them: all except the folder."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in FOLDERS}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Options":
        """The options that ``to_dict``, or JSON made from it, describes.

        Raises:
            ConfigError: names the first option that is unknown or has a wrong value.
        """
        alone = {"together": 1}  # as in versions that had no such option
        return from_dict(cls, {**alone, **data, "out": Path("runs")}, "options.")
