"""What a person sees while a training runs: a small dashboard on a terminal, plain lines elsewhere."""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live as Display
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from poise.agents.evaluation import Evaluation
from poise.envs.info import success
from poise.runs.crash import CRASH
from poise.runs.curve import WINDOW
from poise.runs.writers.info import InfoColumns
from poise.runs.writers.writer import Writer
from poise.spec import Episode
from poise.system.pulse import SILENCE, Pulse
from poise.system.streams import TextOut
from poise.system.terminal import print, visible
from poise.training.iteration import Progress
from poise.training.metrics import BY_NAME
from poise.wording import figure

SHOWN = {
    "policy/kl": "KL",
    "policy/clip_fraction": "clip fraction",
    "value/explained_variance": "explained variance",
    "policy/std": "std",
}
BLOCKS = "▁▂▃▄▅▆▇█"
BUCKETS = 32  # of the budget, each a block of the sparkline
WIDE = 88  # columns of a terminal with room for a long bar
SHARE = 0.1  # a pipe may have no new line for this share of the time since the start
INEXACT = "not exact: from here on the result may differ from a training without interruption"
NOTHING_LEFT = "– (little left to explain)"


class Live(ABC):
    """A view of a training. It keeps the recent episodes and the pace."""

    def __init__(self, total_steps: int, dimensions: int):
        self._total, self._dimensions = total_steps, dimensions
        self._recent: deque[Episode] = deque()
        self._sums = np.zeros((2, BUCKETS))  # returns and episodes of each part of the budget
        self._first: tuple[float, int] | None = None

    def catch_up(self, steps: int, episodes: Sequence[Episode]) -> None:
        """Shows where a resumed training stands before its first iteration."""
        self._take(episodes)
        self._draw(steps, "", self._mean(steps), {})

    def show(self, steps: int, episodes: list[Episode], metrics: Mapping[str, float | int | None]) -> None:
        """Shows where the training stands after an iteration: its new episodes and its metrics."""
        self._take(episodes)
        now = time.perf_counter()
        if self._first is None:
            self._first = now, steps
        since, first = self._first
        pace = f"{(steps - first) / (now - since):,.0f} steps/s" if steps > first else ""
        self._draw(steps, pace, self._mean(steps), metrics)

    @abstractmethod
    def say(self, text: str) -> None:
        """Shows a line of text beside what is drawn."""

    @abstractmethod
    def phase(self, text: str) -> None:
        """Says what is being done before or after the iterations. It is shown if it takes long."""

    @abstractmethod
    def close(self) -> None:
        """Ends the drawing. What was drawn last stays."""

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
        mean = f"return {figure(float(np.mean([e.episodic_return for e in self._recent])))}"
        successes = [value for e in self._recent if (value := success(e.info)) is not None]
        return f"{mean}  success {np.mean(successes):.0%}" if successes else mean

    @abstractmethod
    def _draw(self, steps: int, pace: str, mean: str, metrics: Mapping[str, float | int | None]) -> None: ...


class LiveLine(Writer):
    """Shows each iteration on a view, and lines about crashes and lost workers.

    The view stays open: it also shows what follows the last iteration.

    Args:
        view: of the training.
        folder: the run folder, as it is shown.
        columns: which numbers of infos are recorded. What is left out is said once.
        exact: whether the training is exact so far. When it stops being so, a line says it once.
    """

    def __init__(self, view: Live, folder: Path, columns: InfoColumns, *, exact: bool):
        self._view, self._folder, self._columns, self._exact = view, folder, columns, exact

    def write(self, progress: Progress, greedy: Evaluation | None) -> None:
        for crash in progress.crashes:
            self._view.say(f"{crash.what}; it was made again ({self._folder / CRASH})")
        for note in (*progress.notes, *self._columns.sentences(progress)):
            self._view.say(note)
        if self._exact and not progress.exact:
            self._exact = False
            self._view.say(INEXACT)
        self._view.show(progress.steps, progress.episodes, progress.metrics)


def sparkline(values: np.ndarray) -> str:
    """A block for each value: lowest for the minimum, highest for the maximum; a space for NaN."""
    finite = np.isfinite(values)
    if not finite.any():
        return " " * len(values)
    low, spread = values[finite].min(), np.ptp(values[finite])
    share = (values - low) / spread if spread > 0 else np.where(finite, 0.5, np.nan)
    heights = np.where(finite, np.floor(share * (len(BLOCKS) - 1) + 0.5), 0).astype(int)
    return "".join(BLOCKS[h] if is_finite else " " for h, is_finite in zip(heights, finite, strict=True))


class _Phase:
    """What is being done beside the iterations, and for how long. Iterations are shown if they are long."""

    def __init__(self) -> None:
        self.text, self._since = "compiling", time.monotonic()

    def set(self, text: str) -> None:
        if not self.text or not text:
            self._since = time.monotonic()
        self.text = text

    def __rich__(self) -> RenderableType:
        lasting = time.monotonic() - self._since
        if not self.text and lasting < SILENCE:
            return Text("", end="")
        return Text.assemble((self.text or "the next iteration", "cyan"), (f"  {lasting:.0f} s", "dim"))


class _TerminalLive(Live):
    """A bar; below it the returns, the health of the last iteration, and what is being done."""

    def __init__(self, total_steps: int, bar: Bar, display: Display, dimensions: int):
        super().__init__(total_steps, dimensions)
        self._bar, self._display, self._phase = bar, display, _Phase()
        self._task = bar.add_task("train", total=total_steps, pace="")
        self._draw(0, "", "no episode ended yet", {})

    def say(self, text: str) -> None:
        self._display.console.print(visible(text), markup=False, highlight=False)

    def phase(self, text: str) -> None:
        self._phase.set(text)

    def close(self) -> None:
        self._phase.set("")
        self._display.stop()

    def _draw(self, steps: int, pace: str, mean: str, metrics: Mapping[str, float | int | None]) -> None:
        self._bar.update(self._task, completed=steps, pace=pace)
        if metrics:
            self._phase.set("")
        total, count = self._sums
        with np.errstate(invalid="ignore"):
            course = sparkline(np.where(count > 0, total / np.maximum(count, 1), np.nan))
        line = Text.assemble((f"{mean:<21} ", "bold"), (course, "cyan"), no_wrap=True)
        health = _health(metrics, self._display.console.width, self._dimensions)
        self._display.update(Group(self._bar, line, health, self._phase))


def _health(metrics: Mapping[str, float | int | None], width: int, dimensions: int) -> RenderableType:
    """Each metric of SHOWN, and whether its value is healthy; in two rows if one is too narrow."""
    cells = []
    for name, title in SHOWN.items():
        value = metrics.get(name)
        if value is None:
            continue
        state = BY_NAME[name].state(metrics, dimensions)
        if state is None and name == "value/explained_variance":
            cells.append(Text(f"{title} {NOTHING_LEFT}", "dim"))
            continue
        color = {"ok": "green", None: "dim"}.get(state, "yellow")
        cells.append(Text.assemble((f"{title} ", "dim"), f"{value:.2g} ", (state or "", color)))
    gap = Text("   ")
    row = gap.join(cells)
    rows = [row] if row.cell_len <= width else [gap.join(cells[:2]), gap.join(cells[2:])]
    return Text("\n", no_wrap=True, overflow="crop").join(rows)


class _PlainLive(Live):
    """A line for each tenth of the budget, and now and then a line if one takes long."""

    def __init__(self, total_steps: int, file: TextOut, dimensions: int):
        super().__init__(total_steps, dimensions)
        self._file = file
        self._tenth = 0
        self.pulse = Pulse(self._print, SHARE)
        self.pulse.doing("compiling")

    def say(self, text: str) -> None:
        self._print(text)
        self.pulse.heard()

    def phase(self, text: str) -> None:
        self.pulse.share = 0.0
        self.pulse.doing(text)

    def close(self) -> None:
        self.pulse.doing("")

    def _print(self, text: str) -> None:
        print(text, file=self._file, flush=True)

    def _draw(self, steps: int, pace: str, mean: str, metrics: Mapping[str, float | int | None]) -> None:
        states = [
            f"{title} {BY_NAME[name].state(metrics, self._dimensions)}" for name, title in SHOWN.items()
        ]
        unhealthy = [text for text in states if text.endswith((" high", " low"))]
        parts = [f"{steps:>9,} / {self._total:,} steps", pace, mean, ", ".join(unhealthy)]
        line = "  ".join(part for part in parts if part)
        self.pulse.share = SHARE
        self.pulse.doing(line if metrics else "compiling")
        tenth = 10 * steps // self._total
        if tenth > self._tenth:
            self._tenth = tenth
            self.say(line)


@contextmanager
def live(total_steps: int, file: TextOut, dimensions: int = 1) -> Iterator[Live]:
    """The view that suits ``file``. ``dimensions``: of an action; the healthy range of KL depends on them."""
    with ExitStack() as stack:
        if not file.isatty():
            view = _PlainLive(total_steps, file, dimensions)
            stack.enter_context(view.pulse.beating())
            yield view
            return
        console = Console(file=cast(IO[str], file))
        bar = Bar(
            BarColumn(22 if console.width >= WIDE else 10, complete_style="cyan", finished_style="green"),
            TaskProgressColumn(),
            TextColumn("{task.completed:,.0f} / {task.total:,.0f} steps"),
            TextColumn("[cyan]{task.fields[pace]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            auto_refresh=False,
        )
        display = stack.enter_context(Display(console=console, refresh_per_second=4))
        yield _TerminalLive(total_steps, bar, display, dimensions)
