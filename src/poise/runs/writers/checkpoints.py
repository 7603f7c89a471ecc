"""The checkpoints of a run, and the candidates for its best agent that they contain."""

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from poise.agents.best import Candidate, Podium, slice_of
from poise.agents.evaluation import Evaluation
from poise.algo.state import TrainState
from poise.own.network import programs
from poise.runs.journal import cut, lengths
from poise.runs.setup import Past, Setup, Stopped
from poise.runs.writers.tally import Tally
from poise.runs.writers.writer import Log, Writer
from poise.store.checkpoint import Trained, Training, save_training
from poise.training.iteration import Progress
from poise.training.starting.curriculum import settings_in

CHECKPOINT_SECONDS = 10.0


class BestAgents(Writer):
    """Keeps the agents with the best training return, of which the best is chosen at the end."""

    def __init__(self, setup: Setup, past: Past):
        self._podium = Podium(setup.total_steps, past.candidates, past.episodes)
        self._slice, self._rollout = slice_of(setup.total_steps), setup.config.rollout_size

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        return self._podium.candidates

    def write(self, progress: Progress, greedy: Evaluation | None) -> None:
        if not progress.in_block:
            self._podium.consider(progress.steps, progress.episodes, Trained.of(progress.state))
            return
        self._podium.collect(progress.episodes)
        # A block of iterations ends where each slice does. Its other ends depend on the clock.
        if (progress.steps - self._rollout) // self._slice < progress.steps // self._slice:
            self._podium.rank(progress.steps, Trained.of(progress.state))


class Snapshot(NamedTuple):
    """All that a checkpoint of one iteration contains. Later iterations change nothing in it."""

    steps: int
    state: TrainState | None  # None before the first iteration
    world: Mapping[str, Any]
    position: Mapping[str, int]  # bytes of each table
    candidates: tuple[Candidate, ...]
    notes: Mapping[str, Any]
    initial: Mapping[str, Any] = {}  # see Training


class Checkpoints(Writer):
    """Keeps the last finished iteration in memory, and saves it when a checkpoint is due or asked for.

    So it can be saved at any moment, also by another thread while the next iteration runs.

    Args:
        folder: the run folder.
        setup: of the training.
        past: of the training.
        logs: are written before, as a checkpoint stores their lengths, and synced before it is saved.
        best: is written before; its candidates are saved.
        tally: is written before; its sums are saved.
    """

    def __init__(
        self, folder: Path, setup: Setup, past: Past, *, logs: Sequence[Log], best: BestAgents, tally: Tally
    ):
        self._folder, self._setup = folder, setup
        self._logs, self._best, self._tally = logs, best, tally
        self._lock = threading.RLock()
        self._saved = past.steps or None  # steps of the last checkpoint; None: there is none yet
        self._saved_at = time.monotonic()
        self._last = self._snapshot(past.steps, None, {})

    @property
    def last(self) -> Snapshot:
        """The last finished iteration."""
        return self._last

    def rivals(self) -> list[Candidate]:
        """The candidates for the best agent and, after them, the last agent."""
        last = self._last
        assert last.state is not None
        newest = Candidate(last.steps, 0.0, Trained.of(last.state))
        return [*(c for c in last.candidates if c.steps != last.steps), newest]

    def begin_with(self, initial: Mapping[str, Any]) -> None:
        """Sets what a training starts with, before its first iteration."""
        self._last = self._last._replace(initial=initial)

    def resume(self, state: TrainState, world: Mapping[str, Any]) -> None:
        """Sets what was loaded from the checkpoint from which the training resumes."""
        self._last = self._last._replace(state=state, world=world)

    def write(self, progress: Progress, greedy: Evaluation | None) -> None:
        assert progress.world is not None, "every backend of make can be restored"
        before = self._last.steps
        self._last = self._snapshot(progress.steps, progress.state, progress.world)
        every = self._setup.options.checkpoint_every
        if every is None:
            due = time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS
        else:
            due = before // every < progress.steps // every
        if due:
            self.save()

    def save(self) -> None:
        """Writes a checkpoint of the last finished iteration, if there is none yet."""
        with self._lock:
            last = self._last
            if self._saved == last.steps:
                return
            for log in self._logs:
                log.sync()
            scores = [[c.steps, c.episodic_return] for c in last.candidates]
            notes = {**last.notes, "logs": dict(last.position), "candidates": scores}
            training = Training(last.state, last.world, [c.agent for c in last.candidates], last.initial)
            save_training(self._folder, training, self._setup.manifest(last.steps, notes))
            self._saved, self._saved_at = last.steps, time.monotonic()

    def stop(self, stopped: Stopped) -> None:
        """Writes into the checkpoint of the last iteration that no other follows."""
        with self._lock:
            self._last = self._last._replace(notes={**self._last.notes, "stopped": list(stopped)})
            self._saved = None
            self.save()

    def cut_logs(self) -> None:
        """Removes rows of an iteration that did not end."""
        cut(self._folder, self._last.position)

    def _snapshot(self, steps: int, state: TrainState | None, world: Mapping[str, Any]) -> Snapshot:
        decided = settings_in(world)  # an agent is scored and filmed with them
        settings = {"settings": decided} if decided else {}
        notes = {"options": self._setup.options.to_dict(), **self._tally.notes(), **settings}
        if state is not None and self._setup.config.own_networks:
            notes["networks"] = programs(state.learner)
        return Snapshot(steps, state, world, lengths(self._folder), self._best.candidates, notes)
