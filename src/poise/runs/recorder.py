"""What a training leaves in its folder: the writers get each iteration; the rest is written at the end."""

import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from poise.agents.agent import load
from poise.agents.evaluation import Evaluation
from poise.agents.film import film
from poise.algo.state import TrainState
from poise.errors import PoiseError
from poise.runs.budget import Budget
from poise.runs.crash import CrashFile
from poise.runs.curve import CURVE, draw_curve
from poise.runs.driving.stops import GREEDY
from poise.runs.journal import EVALUATION, read_episodes, read_greedy
from poise.runs.live import Live, LiveLine
from poise.runs.scoring import Scores
from poise.runs.setup import Past, Setup, Stopped
from poise.runs.trackers.tensorboard import TensorBoard
from poise.runs.writers.checkpoints import BestAgents, Checkpoints
from poise.runs.writers.info import InfoColumns
from poise.runs.writers.logs import EpisodesLog, GreedyLog, MetricsLog
from poise.runs.writers.tally import Tally
from poise.runs.writers.writer import Log, Writer
from poise.store.checkpoint import Trained
from poise.store.files import write_text
from poise.system.gpu import device_name
from poise.system.interrupts import Guard
from poise.training.iteration import Progress


class Recorder:
    """Passes each finished iteration to the writers, and completes the folder when the training ends.

    Args:
        folder: the run folder.
        shown: the same folder, as the person named it.
        setup: of the training.
        past: of the training.
        tally: adds up what the training takes.
        guard: defers interrupts while files are written.
        initial: arrays with which a new training starts (``Training.initial``).
    """

    def __init__(
        self,
        folder: Path,
        shown: Path,
        setup: Setup,
        past: Past,
        *,
        tally: Tally,
        guard: Guard,
        initial: Mapping[str, Any],
    ):
        self.folder, self.shown, self.setup, self.past = folder, shown, setup, past
        self._tally, self._guard = tally, guard
        self._lock = threading.RLock()
        self._finished = False  # whether the summary says so
        self._stopped = past.stopped
        best = BestAgents(setup, past)
        self._scores = Scores(folder, setup, tally)
        write_text(folder / "config.json", json.dumps(setup.to_dict(), indent=2) + "\n")
        self._columns = InfoColumns(folder)
        logs: list[Log] = [MetricsLog(folder, self._columns), EpisodesLog(folder, self._columns)]
        if setup.options.eval_every:
            logs.append(GreedyLog(folder))
        logs.append(TensorBoard(folder, setup.spec, self._columns, log_every=setup.options.log_every))
        self._checkpoints = Checkpoints(folder, setup, past, logs=logs, best=best, tally=tally)
        # A checkpoint contains what the writers before it have written, candidates and sums included.
        self._writers: list[Writer] = [*logs, best, tally, self._checkpoints, CrashFile(folder)]
        if past.steps == 0:
            self._checkpoints.begin_with(initial)
            self.save()  # before anything is compiled

    @property
    def steps(self) -> int:
        """Environment steps at the end of the last finished iteration."""
        return self._checkpoints.last.steps

    @property
    def evaluation(self) -> Evaluation | None:
        """The score of the last agent; if it was interrupted, of the episodes up to then."""
        return self._scores.evaluation

    @property
    def phase(self) -> Callable[[str], None]:
        """Is called with a description of what is done beside the iterations."""
        return self._scores.phase

    def show_on(self, view: Live) -> None:
        """Adds the view as the last writer. It also shows what is done beside the iterations."""
        self._scores.phase = view.phase
        self._writers.append(LiveLine(view, self.shown, self._columns, exact=self.past.exact))

    def resume(self, state: TrainState, world: Mapping[str, Any]) -> None:
        """Sets the state and the world from which a resumed training begins."""
        self._checkpoints.resume(state, world)

    def record(self, progress: Progress) -> Progress:
        """Records a finished iteration. An interrupt waits until every writer has it.

        Returns it with the greedy score among its metrics, where such scores are asked for.
        """
        greedy = self._scores.while_training(self.steps, progress)
        with self._guard.deferred(), self._tally.timed("log"):
            self._columns.settle(progress)
            for writer in self._writers:
                writer.write(progress, greedy)
        return _with_score(progress, greedy) if self.setup.options.eval_every else progress

    def stop(self, stopped: Stopped) -> None:
        """Writes once that the training ends with its last iteration, before its budget is used up."""
        if stopped == self._stopped:
            return
        with self._guard.deferred(), self._tally.timed("log"):
            self._stopped = stopped
            self._checkpoints.stop(stopped)

    def save(self) -> None:
        """Writes a checkpoint of the last finished iteration, if there is none yet."""
        with self._guard.deferred(), self._tally.timed("log"):
            self._checkpoints.save()

    def save_at_once(self) -> None:
        """Saves what another thread can save while the main thread is busy, before the process ends."""
        with self._lock:
            if self._finished:
                return
            self._checkpoints.save()
            self._checkpoints.cut_logs()
            self._write_summary("interrupted")

    def budget(self) -> Budget:
        """What ``evaluate`` may cost."""
        return self._scores.budget(self._checkpoints.rivals())

    def evaluate(self) -> None:
        """Scores the last agent, then chooses and scores the best. An interrupt leaves partial scores."""
        with self._tally.timed("evaluate"):
            self._scores.at_the_end(self._checkpoints.rivals())

    def film(self, say: Callable[[str], None]) -> None:
        """Films the agent that was saved. If that is impossible, ``say`` gets a line with the reason."""
        with self._tally.timed("film"):
            try:
                earlier = [*self.folder.glob("video.*"), *self.folder.glob("video_best.*")]
                for path in earlier:  # of another agent; a link is removed, not followed
                    path.unlink()
                film(load(self.folder), self.folder / "video", env=self.setup.task.id)
            except PoiseError as error:
                say(str(error))

    def finish(self, status: str) -> dict[str, Any]:
        """Writes the curve and the summary, which it returns.

        The summary of a finished run is written last: if it exists, everything else does. The summary of
        another run is written first: an interrupted process has only seconds left, and a curve may take
        longer.
        """
        self._guard.done()
        self.phase("drawing the curve")
        with self._tally.timed("log"):
            self.close()
            if self.evaluation is not None:
                write_text(self.folder / EVALUATION, _table(self.evaluation))
            if status == "finished":
                self._draw()
        if status == "finished":
            with self._lock:
                self._finished = True
                return self._write_summary(status)
        self._checkpoints.cut_logs()
        summary = self._write_summary(status)
        with contextlib.suppress(Exception):  # without a picture the summary still says how it ended
            self._draw()
        return summary

    def close(self) -> None:
        """Closes all files and environments. May be called twice."""
        for writer in self._writers:
            writer.close()
        self._scores.close()

    def _draw(self) -> None:
        title = f"{self.setup.task.id}, seed {self.setup.config.seed}"
        episodes, greedy = read_episodes(self.folder, most=None), read_greedy(self.folder)
        path = self.folder / CURVE
        total_steps = self.steps if self._stopped else self.setup.total_steps
        draw_curve(path, title, episodes, total_steps, self.evaluation, greedy)

    def _write_summary(self, status: str) -> dict[str, Any]:
        setup, last, evaluation = self.setup, self._checkpoints.last, self.evaluation
        summary = {
            "env": setup.task.id,
            "backend": setup.task.backend,
            "seed": setup.config.seed,
            "steps": last.steps,
            "status": status,
            "stopped_by": self._stopped and self._stopped.by,
            "stop_reason": self._stopped and self._stopped.reason,
            **self._tally.sums(),
            "evaluation": evaluation.summary() if evaluation else None,
            "best": self._scores.best,
            "parameters_sha256": parameters_sha256(last.state) if last.state else None,
            "device": device_name(),
            "processes": jax.process_count(),
            **self._tally.machines(),
        }
        write_text(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        return summary


def _with_score(progress: Progress, greedy: Evaluation | None) -> Progress:
    *before, last = progress.rows
    metrics = {**last.metrics, GREEDY: None if greedy is None else greedy.mean}
    return dataclasses.replace(progress, rows=(*before, dataclasses.replace(last, metrics=metrics)))


def _table(evaluation: Evaluation) -> str:
    """The content of ``evaluation.csv``."""
    numbers = [["" if np.isnan(x) else f"{x}" for x in values] for values in evaluation.info.values()]
    rows = zip(evaluation.episodic_return, evaluation.length, *numbers, strict=True)
    lines = [",".join(map(str, (i, *row))) for i, row in enumerate(rows)]
    return "\n".join([",".join(["episode", "return", "length", *evaluation.info]), *lines]) + "\n"


def parameters_sha256(state: TrainState) -> str:
    """SHA-256 over path, shape and bytes of every policy and value parameter, in sorted order."""
    return Trained.of(state).parameters_sha256()
