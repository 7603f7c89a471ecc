"""TensorBoard: metrics by step, episode, epoch and iteration. The only file that imports tensorboardX."""

import math
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore
from tensorboardX.record_writer import RecordWriter

from poise.agents.evaluation import Evaluation
from poise.runs.journal import EVENTS
from poise.runs.writers.info import InfoColumns
from poise.runs.writers.writer import Log
from poise.spec import Piece, Spec
from poise.store.files import open_to_write
from poise.training.iteration import Progress, Row
from poise.training.measuring import box_of, probabilities


class _Records(RecordWriter):
    """tensorboardX's records, appended to a file."""

    def __init__(self, path: Path):
        self.path = path
        self._writer = os.fdopen(open_to_write(path, os.O_APPEND | os.O_CREAT), "ab")

    def flush(self) -> None:
        """Gives all bytes to the system; the disk may get them later."""
        self._writer.flush()

    def fileno(self) -> int:
        return self._writer.fileno()


def step_tags(spec: Spec) -> dict[str, list[str]]:
    """The tags of actions, means, deviations and probabilities, each in the order of its array.

    ``step/mean/aim/0`` is of a box ``aim``, ``step/probability/pick/3`` of a choice ``pick``. A box of one
    dimension has no number: ``step/mean/push``. A part without a name has numbers only.
    """
    boxes, choices = ([p for p in spec.pieces if bool(p.sizes) == chosen] for chosen in (False, True))
    box_columns = [tail for piece in boxes for tail in _tails(piece)]
    return {
        "action": [f"step/action/{tail}" for piece in spec.pieces for tail in _tails(piece)],
        "mean": [f"step/mean/{tail}" for tail in box_columns],
        "std": [f"step/std/{tail}" for tail in box_columns],
        "probability": [
            f"step/probability/{'/'.join([*filter(None, [piece.name]), str(value)])}"
            for piece in choices
            for value in range(sum(piece.sizes))
        ],
    }


def _tails(piece: Piece) -> list[str]:
    """The ends of the tags of its columns: the name, and the number of the column if there are several."""
    width = piece.columns.stop - piece.columns.start
    if width == 1 and piece.name:
        return [piece.name]
    return ["/".join([*filter(None, [piece.name]), str(d)]) for d in range(width)]


class TensorBoard(Log):
    """Appends to the event file in ``folder``.

    Every tag is a metric of ``poise.training.metrics``.

    The horizontal axis is environment steps everywhere; the epochs of an iteration are spread evenly
    over the steps of its rollout.
    """

    def __init__(self, folder: Path, spec: Spec, columns: InfoColumns, *, log_every: int):
        path = folder / EVENTS
        self._writer = _Records(path)
        self._log_every, self._columns = log_every, columns
        self._tags = step_tags(spec)
        if not path.stat().st_size:
            self._writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
            self._writer.flush()

    def write(self, progress: Progress, greedy: Evaluation | None) -> None:
        size = progress.rollout.reward.size
        for row in progress.rows:
            if row is progress.rows[-1]:  # of earlier iterations no rollout came back from the device
                self._write_steps(progress, progress.steps - size)
            for e in row.episodes:
                self._add(e.step, {"episode/episodic_return": e.episodic_return})
            self._write_epochs(row, size)
            per_iteration = {k: v for k, v in self._columns.recorded(row).items() if k not in row.epochs}
            self._add(row.steps, per_iteration | row.times)
        if greedy is not None:
            rate = {"evaluation/success_rate": greedy.success_rate}
            self._add(progress.steps, {"evaluation/return": greedy.mean, **rate})
        self._writer.flush()

    def _write_steps(self, progress: Progress, begin: int) -> None:
        """Every ``log_every``-th environment step; within a vector step, steps count by environment."""
        first = -(-(begin + 1) // self._log_every) * self._log_every
        steps = np.arange(first, progress.steps + 1, self._log_every)
        rows = steps - begin - 1
        rollout, distribution = jax.device_get((progress.rollout, progress.prepared.distribution))
        reward = rollout.reward.ravel()[rows]
        action = rollout.action.reshape(rollout.reward.size, -1)[rows]
        kinds: dict[str, Any] = {}
        if (box := box_of(distribution)) is not None:
            kinds |= {"mean": box.mean[rows], "std": box.std[rows]}
        if (chances := probabilities(distribution)) is not None:
            kinds["probability"] = chances[rows]
        kinds = {"action": action, **kinds}
        tags = ["step/reward", *(tag for name in kinds for tag in self._tags[name])]
        values = np.concatenate([reward[:, None], *kinds.values()], axis=1)
        for step, row in zip(steps.tolist(), values.tolist(), strict=True):
            self._add(step, dict(zip(tags, row, strict=True)))

    def _write_epochs(self, row: Row, size: int) -> None:
        count = max(map(len, row.epochs.values()))  # one network may have fewer
        for epoch in range(count):
            step = row.steps - size + size * (epoch + 1) // count
            self._add(step, {name: x[epoch] for name, x in row.epochs.items() if epoch < len(x)})

    def _add(self, step: int, values: dict) -> None:
        event = Event(step=step, wall_time=time.time(), summary=Summary())
        for tag, value in values.items():
            if value is not None and math.isfinite(value):
                event.summary.value.add(tag=tag, simple_value=value)
        self._writer.write(event.SerializeToString())

    def sync(self) -> None:
        os.fsync(self._writer.fileno())

    def close(self) -> None:
        self._writer.close()
