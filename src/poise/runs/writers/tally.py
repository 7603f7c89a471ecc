"""What a training took and did, added up over its iterations and its resumes."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from poise.agents.evaluation import Evaluation
from poise.runs.setup import PARTS, Past
from poise.runs.writers.writer import Writer
from poise.system.machine import fingerprint, made_with, peak_memory, processor_name, versions
from poise.training.iteration import Progress


class Tally(Writer):
    """Adds up seconds, crashes and exactness. A checkpoint and ``summary.json`` contain the sums.

    Args:
        past: the sums at the checkpoint from which the training resumes.
        began: when the training began, as ``time.perf_counter`` counts.
        import_seconds: of the time since then, the part that loading took.
    """

    def __init__(self, past: Past, began: float, import_seconds: float):
        self._past, self._began = past, began
        self._seconds = {part: past.seconds[part] for part in PARTS}
        self._seconds["import"] += import_seconds
        self._physics, self._exact, self._crashes = past.physics, past.exact, past.crashes
        machine = made_with()
        self._made_with = [*(earlier for earlier in past.made_with if earlier != machine), machine]
        self.longest = max((e.length for e in past.episodes), default=0)  # steps of an episode that ended
        # Time and steps at the end of the first iteration of this process, which compiles, and of the last.
        self._first: tuple[float, int] | None = None
        self._last = (0.0, past.steps)

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Adds the time until the context ends to ``part``, one of ``PARTS``."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] += time.perf_counter() - began

    def write(self, progress: Progress, greedy: Evaluation | None) -> None:
        self.longest = max([self.longest, *(e.length for e in progress.episodes)])
        self._seconds["compile"] += progress.compile_seconds
        times = progress.times
        for part in ("rollout", "learn", "prepare"):
            self._seconds[part] += times[f"time/{part}"] or 0.0
        if (physics := times["time/physics"]) is not None:
            self._physics = (self._physics or 0.0) + physics
        self._exact = self._exact and progress.exact
        self._crashes += len(progress.crashes)
        # Greedy scores while training do not slow it down: their time is left out of its pace.
        self._last = time.perf_counter() - self._seconds["evaluate"], progress.steps
        self._first = self._first or self._last

    def total_seconds(self) -> float:
        """Seconds since the beginning of the training, over all its processes."""
        return self._past.seconds["total"] + time.perf_counter() - self._began

    def notes(self) -> dict[str, Any]:
        """What a checkpoint needs of the sums to continue them (``Past``)."""
        return {
            "seconds": {**self._seconds, "total": self.total_seconds()},
            "physics": self._physics,
            "pace": list(self._pace()),
            "exact": self._exact,
            "resumed": self._past.resumed,
            "crashes": self._crashes,
            "made_with": self._made_with,
        }

    def sums(self) -> dict[str, Any]:
        """The sums as ``summary.json`` has them."""
        steps, seconds = self._pace()
        return {
            "exact": self._exact,
            "resumed": self._past.resumed,
            "crashes": self._crashes,
            "steps_per_second": steps / seconds if seconds > 0 else None,
            "seconds": {**self._seconds, "physics": self._physics, "total": self.total_seconds()},
            "peak_memory_bytes": peak_memory(),
        }

    def machines(self) -> dict[str, Any]:
        """What the training was made with, as ``summary.json`` has it."""
        return {
            "versions": versions(),
            "processor": processor_name(),
            "fingerprint": fingerprint(),
            "fingerprints": list(dict.fromkeys(machine["fingerprint"] for machine in self._made_with)),
        }

    def _pace(self) -> tuple[int, float]:
        """Steps, and the seconds that they took, without the first iteration of each process."""
        steps, seconds = self._past.pace
        if self._first is None:
            return steps, seconds
        (first, first_step), (last, last_step) = self._first, self._last
        return steps + last_step - first_step, seconds + last - first
