"""What a person sees while a training runs: a small dashboard on a terminal, plain lines elsewhere."""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, cast

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live as Display
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from poise.curve import WINDOW
from poise.metrics import BY_NAME
from poise.spec import Episode
from poise.streams import TextOut
from poise.terminal import print, visible

SHOWN = {
    "policy/kl": "KL",
    "policy/clip_fraction": "clip fraction",
    "value/explained_variance": "explained variance",
    "policy/std": "std",
}
BLOCKS = "▁▂▃▄▅▆▇█"
BUCKETS = 32  # of the budget, each a block of the sparkline


class Live(ABC):
    """Keeps the recent episodes and the pace; ``show`` is called after every iteration."""

    def __init__(self, total_steps: int):
        self._total = total_steps
        self._recent: deque[Episode] = deque()
        self._sums = np.zeros((2, BUCKETS))  # returns and episodes of each part of the budget
        self._first: tuple[float, int] | None = None

    def catch_up(self, steps: int, episodes: Sequence[Episode]) -> None:
        """Where a resumed training stands before its first iteration."""
        self._take(episodes)
        self._draw(steps, "", self._mean(steps), {})

    def show(self, steps: int, episodes: list[Episode], metrics: Mapping[str, float | int | None]) -> None:
        """Where the training stands; the episodes that ended since, and the last iteration's metrics."""
        self._take(episodes)
        now = time.perf_counter()
        if self._first is None:
            self._first = now, steps
        begun, first = self._first
        pace = f"{(steps - first) / (now - begun):,.0f} steps/s" if steps > first else ""
        self._draw(steps, pace, self._mean(steps), metrics)

    @abstractmethod
    def say(self, text: str) -> None:
        """A line for the person, beside what is drawn."""

    def _take(self, episodes: Sequence[Episode]) -> None:
        self._recent.extend(episodes)
        for episode in episodes:
            bucket = min(BUCKETS - 1, BUCKETS * (episode.step - 1) // self._total)
            self._sums[:, bucket] += episode.episodic_return, 1

    def _mean(self, steps: int) -> str:
        while len(self._recent) > 1 and self._recent[0].step <= steps - WINDOW * self._total:
            self._recent.popleft()
        if not self._recent:
            return "no episode ended yet"
        return f"return {np.mean([e.episodic_return for e in self._recent]):.1f}"

    @abstractmethod
    def _draw(self, steps: int, pace: str, mean: str, metrics: Mapping[str, float | int | None]) -> None: ...


def sparkline(values: np.ndarray) -> str:
    """A block for each value, the lowest the lowest and the highest the highest; a space for NaN."""
    known = values[np.isfinite(values)]
    if not len(known):
        return " " * len(values)
    low, spread = known.min(), np.ptp(known)
    share = (values - low) / spread if spread > 0 else np.where(np.isfinite(values), 0.5, np.nan)
    places = np.where(np.isfinite(values), np.floor(share * (len(BLOCKS) - 1) + 0.5), 0).astype(int)
    return "".join(
        BLOCKS[place] if known else " " for place, known in zip(places, np.isfinite(values), strict=True)
    )


class _TerminalLive(Live):
    """A bar, and below it the return with its course, and the health of the last iteration."""

    def __init__(self, total_steps: int, bar: Bar, display: Display):
        super().__init__(total_steps)
        self._bar, self._display = bar, display
        self._task = bar.add_task("train", total=total_steps, pace="compiling")
        self._display.update(self._picture("no episode ended yet", {}))

    def say(self, text: str) -> None:
        self._display.console.print(visible(text), markup=False, highlight=False)

    def _draw(self, steps: int, pace: str, mean: str, metrics: Mapping[str, float | int | None]) -> None:
        self._bar.update(self._task, completed=steps, pace=pace)
        self._display.update(self._picture(mean, metrics))

    def _picture(self, mean: str, metrics: Mapping[str, float | int | None]) -> RenderableType:
        total, count = self._sums
        with np.errstate(invalid="ignore"):
            course = sparkline(np.where(count > 0, total / np.maximum(count, 1), np.nan))
        line = Text.assemble((f"{mean:<22}", "bold"), (course, "cyan"))
        return Group(self._bar, line, _health(metrics))


def _health(metrics: Mapping[str, float | int | None]) -> RenderableType:
    """Each of SHOWN with its value, and whether that is healthy."""
    grid = Table.grid(padding=(0, 3))
    cells = []
    for name, title in SHOWN.items():
        value = metrics.get(name)
        if value is None:
            continue
        state = BY_NAME[name].state(metrics)
        color = {"ok": "green", None: "dim"}.get(state, "yellow")
        cells.append(Text.assemble((f"{title} ", "dim"), f"{value:.2g} ", (state or "", color)))
    grid.add_row(*cells)
    return grid


class _PlainLive(Live):
    """One line for each tenth of the budget."""

    def __init__(self, total_steps: int, file: TextOut):
        super().__init__(total_steps)
        self._file = file
        self._tenth = 0

    def say(self, text: str) -> None:
        print(text, file=self._file, flush=True)

    def _draw(self, steps: int, pace: str, mean: str, metrics: Mapping[str, float | int | None]) -> None:
        tenth = 10 * steps // self._total
        if tenth > self._tenth:
            self._tenth = tenth
            sick = [f"{title} {BY_NAME[name].state(metrics)}" for name, title in SHOWN.items()]
            sick = [text for text in sick if text.endswith((" high", " low"))]
            parts = [f"{steps:>9,} / {self._total:,} steps", pace, mean, ", ".join(sick)]
            print("  ".join(part for part in parts if part), file=self._file, flush=True)


@contextmanager
def live(total_steps: int, file: TextOut) -> Iterator[Live]:
    """The view that suits ``file``."""
    if not file.isatty():
        yield _PlainLive(total_steps, file)
        return
    console = Console(file=cast(IO[str], file))
    bar = Bar(
        BarColumn(bar_width=22, complete_style="cyan", finished_style="green"),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f} / {task.total:,.0f} steps"),
        TextColumn("[cyan]{task.fields[pace]}"),
        TimeRemainingColumn(compact=True),
        console=console,
        auto_refresh=False,
    )
    with Display(console=console, refresh_per_second=4) as display:
        yield _TerminalLive(total_steps, bar, display)
