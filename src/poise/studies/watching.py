"""The progress of many trainings: a bar for each running one on a terminal, otherwise a line now and then.

Progress is read from a training's table of metrics, so that it does not matter on which machine it runs.
"""

import json
import os
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from rich.console import Console, Group
from rich.live import Live as Display
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from poise.runs.journal import METRICS
from poise.system.pulse import Pulse
from poise.system.streams import TextOut
from poise.system.terminal import print

TAIL = 2**16  # bytes read from the end of a file: they hold its last line
LOOKING = 1.0  # seconds between two readings of the tables
SHOWN = 4  # trainings that a line names


class Watch(ABC):
    """Shows the progress of the jobs of a pool. The pool calls ``look`` with those that have not ended."""

    def __init__(self, name: Callable[[Any], str]):
        self._name, self._looked = name, 0.0
        self.lines = _Lines(self)  # a stream: each line printed to it is shown

    def look(self, jobs: Sequence[Any]) -> None:
        """Shows their progress, once per second at most."""
        if time.monotonic() - self._looked >= LOOKING:
            self._looked = time.monotonic()
            self._show({job.folder: _State(self._name(job), *_steps_of(job)) for job in jobs})

    @abstractmethod
    def say(self, text: str) -> None:
        """Shows a line of text."""

    @abstractmethod
    def _show(self, states: dict[Path, "_State"]) -> None:
        """Shows the states, by folder."""


class _State(NamedTuple):
    """The progress of a training in environment steps; 0 steps: it has not started, or is compiling."""

    name: str
    steps: int
    total: int

    @property
    def text(self) -> str:
        return "finishing" if self.steps >= self.total else f"{100 * self.steps // self.total}%"


class _Lines:
    """A stream that hands its lines to a watch, so that they do not break its bars."""

    def __init__(self, watch: Watch):
        self._watch, self._rest = watch, ""

    def write(self, text: str, /) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._watch.say(line)
        return len(text)

    def flush(self) -> None:
        """Does nothing: only a line without an end is held back."""

    def isatty(self) -> bool:
        return False


class _Plain(Watch):
    """A line now and then."""

    def __init__(self, name: Callable[[Any], str], file: TextOut):
        super().__init__(name)
        self._file, self.pulse = file, Pulse(self._print, 0.05)

    def say(self, text: str) -> None:
        self._print(text)
        self.pulse.heard()

    def _print(self, text: str) -> None:
        print(text, file=self._file, flush=True)

    def _show(self, states: dict[Path, _State]) -> None:
        running = [f"{state.name} {state.text}" for state in states.values() if state.steps]
        waiting = len(states) - len(running)
        parts = running[:SHOWN] + ([f"{len(running) - SHOWN} more"] if len(running) > SHOWN else [])
        parts += [f"{waiting} not started or compiling"] if waiting else []
        self.pulse.doing("; ".join(parts))


class _Terminal(Watch):
    """A bar for each running training."""

    def __init__(self, name: Callable[[Any], str], bars: Progress):
        super().__init__(name)
        self._bars, self._tasks = bars, dict[Path, TaskID]()
        self._waiting = Text("", "dim")
        self.picture = Group(bars, self._waiting)

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)

    def _show(self, states: dict[Path, _State]) -> None:
        for folder in self._tasks.keys() - states.keys():
            self._bars.remove_task(self._tasks.pop(folder))
        for folder, state in states.items():
            if state.steps and folder not in self._tasks:
                self._tasks[folder] = self._bars.add_task(state.name, total=state.total, state="")
            if folder in self._tasks:
                self._bars.update(self._tasks[folder], completed=state.steps, state=state.text)
        waiting = len(states) - len(self._tasks)
        self._waiting.plain = f"{waiting} not started or compiling" if waiting else ""


@contextmanager
def watching(file: TextOut, name: Callable[[Any], str]) -> Iterator[Watch]:
    """The progress of many trainings on ``file``: bars on a terminal, lines elsewhere.

    ``name``: gives the name of a job that is shown.
    """
    if not file.isatty():
        plain = _Plain(name, file)
        with plain.pulse.beating():
            yield plain
        return
    columns = TextColumn("{task.description}"), BarColumn(22, complete_style="cyan")
    state = TextColumn("{task.fields[state]}")
    bars = Progress(*columns, state, console=Console(file=cast(IO[str], file)), auto_refresh=False)
    terminal = _Terminal(name, bars)
    with Display(terminal.picture, console=bars.console, refresh_per_second=4, transient=True):
        yield terminal


def _steps_of(job: Any) -> tuple[int, int]:
    """Environment steps of a job so far, and in all."""
    total = job.config.num_iterations * job.config.rollout_size * getattr(job, "num_seeds", 1)
    return steps_done(job.folder), total


def steps_done(folder: Path) -> int:
    """Environment steps of the training in ``folder``, plus those of the folders in it."""
    tables = [folder / METRICS, *folder.glob(f"*/{METRICS}")]
    return sum(_steps(table) for table in tables)


def _steps(table: Path) -> int:
    """Steps in the last complete row of a table; 0 if there is none."""
    try:
        descriptor = os.open(table, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0))
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return 0
            file.seek(max(0, status.st_size - TAIL))
            rows = file.read(TAIL).split(b"\n")[:-1]
        return int(json.loads(rows[-1])["steps"])
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return 0
