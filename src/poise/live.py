"""What a person sees while a training runs: a moving line on a terminal, plain lines elsewhere."""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from poise.curve import WINDOW
from poise.loop import Progress
from poise.spec import Episode
from poise.streams import TextOut


class Live(ABC):
    """Keeps the recent episodes and the pace; ``show`` is called after every iteration."""

    def __init__(self, total_steps: int):
        self._total = total_steps
        self._recent: deque[Episode] = deque()
        self._first: tuple[float, int] | None = None

    def catch_up(self, steps: int, episodes: list[Episode]) -> None:
        """Where a resumed training stands before its first iteration."""
        self._recent.extend(episodes)
        self._draw(steps, "", self._mean(steps))

    def show(self, progress: Progress) -> None:
        self._recent.extend(progress.episodes)
        now = time.perf_counter()
        if self._first is None:
            self._first = now, progress.steps
        begun, steps = self._first
        pace = f"{(progress.steps - steps) / (now - begun):,.0f} steps/s" if progress.steps > steps else ""
        self._draw(progress.steps, pace, self._mean(progress.steps))

    def _mean(self, steps: int) -> str:
        while len(self._recent) > 1 and self._recent[0].step <= steps - WINDOW * self._total:
            self._recent.popleft()
        if not self._recent:
            return "no episode ended yet"
        return f"return {np.mean([e.episodic_return for e in self._recent]):.1f}"

    @abstractmethod
    def _draw(self, steps: int, pace: str, mean: str) -> None: ...


class _TerminalLive(Live):
    def __init__(self, total_steps: int, bar: Bar):
        super().__init__(total_steps)
        self._bar = bar
        self._task = bar.add_task("train", total=total_steps, pace="", mean="compiling")

    def _draw(self, steps: int, pace: str, mean: str) -> None:
        self._bar.update(self._task, completed=steps, pace=pace, mean=mean)


class _PlainLive(Live):
    """One line for each tenth of the budget."""

    def __init__(self, total_steps: int, file: TextOut):
        super().__init__(total_steps)
        self._file = file
        self._tenth = 0

    def _draw(self, steps: int, pace: str, mean: str) -> None:
        tenth = 10 * steps // self._total
        if tenth > self._tenth:
            self._tenth = tenth
            parts = [f"{steps:>9,} / {self._total:,} steps", pace, mean]
            print("  ".join(part for part in parts if part), file=self._file, flush=True)


@contextmanager
def live(total_steps: int, file: TextOut) -> Iterator[Live]:
    """The view that suits ``file``."""
    if not file.isatty():
        yield _PlainLive(total_steps, file)
        return
    columns = (
        BarColumn(bar_width=30),
        TextColumn("{task.completed:,.0f} / {task.total:,.0f} steps"),
        TextColumn("[cyan]{task.fields[pace]}"),
        TextColumn("[bold]{task.fields[mean]}"),
        TimeRemainingColumn(compact=True),
    )
    with Bar(*columns, console=Console(file=cast(IO[str], file))) as bar:
        yield _TerminalLive(total_steps, bar)
