"""The tables of a run: ``metrics.jsonl``, ``episodes.csv`` and ``greedy.csv``."""

import csv
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from poise.agents.evaluation import Evaluation
from poise.runs.journal import EPISODE_COLUMNS, EPISODES, GREEDY, GREEDY_COLUMNS, METRICS
from poise.runs.writers.info import InfoColumns
from poise.runs.writers.writer import Log
from poise.store.files import append_to
from poise.training.iteration import Progress


class _TextLog(Log):
    """A text file that is appended to."""

    def __init__(self, path: Path, *, newline: str | None = None):
        self._file = append_to(path, newline=newline)

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class MetricsLog(_TextLog):
    """``metrics.jsonl``: a line for each iteration."""

    def __init__(self, folder: Path, columns: InfoColumns):
        super().__init__(folder / METRICS)
        self._columns = columns

    def write(self, progress: Progress, greedy: Evaluation | None) -> None:
        for row in progress.rows:
            scored = greedy if row is progress.rows[-1] else None
            columns = {
                "iteration": row.iteration,
                "steps": row.steps,
                **self._columns.recorded(row),
                **row.times,
            }
            columns["evaluation/return"] = None if scored is None else scored.mean
            if scored is not None and scored.success_rate is not None:
                columns["evaluation/success_rate"] = scored.success_rate
            self._file.write(json.dumps(_finite(columns)) + "\n")
        self._file.flush()


class _CsvLog(_TextLog):
    """A CSV file that begins with the names of its columns."""

    def __init__(self, path: Path):
        super().__init__(path, newline="")
        self._rows = csv.writer(self._file)
        self._is_new = not path.stat().st_size

    def _begin(self, columns: Sequence[str]) -> None:
        """Writes the names of the columns, if they are not there yet."""
        if self._is_new:
            self._rows.writerow(columns)
            self._file.flush()
            self._is_new = False


class EpisodesLog(_CsvLog):
    """``episodes.csv``: a row for each episode that ended. It is empty until the first one has."""

    def __init__(self, folder: Path, columns: InfoColumns):
        super().__init__(folder / EPISODES)
        self._columns = columns

    def write(self, progress: Progress, greedy: Evaluation | None) -> None:
        names = self._columns.names
        if names is None:
            return
        self._begin([*EPISODE_COLUMNS, *names])
        for e in progress.episodes:
            ended = "terminated" if e.terminated else "truncated"
            numbers = [e.info.get(name, "") for name in names]
            self._rows.writerow([e.step, e.env, e.index, e.episodic_return, e.length, ended, *numbers])
        self._file.flush()

    def close(self) -> None:
        if not self._file.closed:
            self._begin(EPISODE_COLUMNS)  # no episode has ended
        super().close()


class GreedyLog(_CsvLog):
    """``greedy.csv``: a row for each greedy score while training."""

    def __init__(self, folder: Path):
        super().__init__(folder / GREEDY)
        self._begin(GREEDY_COLUMNS)

    def write(self, progress: Progress, greedy: Evaluation | None) -> None:
        if greedy is None:
            return
        score = greedy.summary()
        columns = [score[name] for name in ("mean", "std", "low", "high", "episodes")]
        self._rows.writerow([progress.steps, *columns])
        self._file.flush()


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row with None in place of NaN and infinity, which JSON does not have."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
