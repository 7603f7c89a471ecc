"""What a training leaves behind it: tables, checkpoints, picture and summary."""

import contextlib
import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from poise import envs
from poise.agents.agent import load
from poise.agents.best import Candidate, Podium, choose
from poise.agents.evaluation import Evaluation, Limits, evaluate, evaluation_lanes
from poise.agents.film import film
from poise.algo.state import TrainState
from poise.config import Config
from poise.errors import PoiseError
from poise.runs.budget import Budget, make_budget
from poise.runs.curve import draw_curve
from poise.runs.journal import EVALUATION, Journal, cut, read_episodes, read_greedy
from poise.runs.options import Options
from poise.seeds import Stream
from poise.spec import Episode, Spec
from poise.store.checkpoint import Manifest, Trained, Training, save_best, save_training
from poise.store.files import write_text
from poise.system.interrupts import Guard
from poise.system.machine import fingerprint, made_with, peak_memory, processor_name, versions
from poise.training.acting import ActionScale, Actor
from poise.training.loop import Progress

EVALUATION_EPISODES = 100
RESCORING_EPISODES = 32
CHECKPOINT_SECONDS = 10.0
PARTS = ("import", "compile", "rollout", "learn", "prepare", "log", "evaluate", "film")


@dataclass
class Past:
    """What a resumed training has behind it. Of a new one nothing."""

    steps: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*PARTS, "total"), 0.0))
    physics: float | None = None  # seconds of the rollouts; None where nobody can tell
    pace: tuple[int, float] = (0, 0.0)  # steps and seconds after the first iteration of each start
    exact: bool = True  # whether it is bit for bit the training that was not interrupted
    resumed: int = 0  # times
    crashes: int = 0
    candidates: tuple[Candidate, ...] = ()
    position: Mapping[str, int] = field(default_factory=dict)  # of the tables
    made_with: tuple[Mapping[str, Any], ...] = ()  # machine.made_with, of each that it was trained with
    episodes: Sequence[Episode] = field(default_factory=list)


class _Kept(NamedTuple):
    """The last finished iteration: what can be saved at any moment."""

    steps: int
    state: TrainState | None
    world: Mapping[str, Any]
    position: Mapping[str, int]
    candidates: tuple[Candidate, ...]
    notes: Mapping[str, Any]


class Recorder:
    """Writes the tables after each iteration, and checkpoints; at the end all else of the folder.

    The last finished iteration is kept in memory, so that it can be saved while the next is under way,
    by another thread, too.
    """

    def __init__(
        self,
        folder: Path,
        options: Options,
        found: envs.Resolved,
        config: Config,
        spec: Spec,
        past: Past,
        begun: float,
        guard: Guard,
    ):
        self.total_steps = config.num_iterations * config.rollout_size
        self.folder, self._options, self._found, self._guard = folder, options, found, guard
        self.shown = folder  # the folder as the person named it
        self.dimensions = spec.dimensions  # of an action
        self._config, self._spec, self._past, self._begun = config, spec, past, begun
        self.seconds = {part: past.seconds[part] for part in PARTS}
        self._physics, self._exact, self._crashes = past.physics, past.exact, past.crashes
        mine = made_with()
        self._made_with = [*(one for one in past.made_with if one != mine), mine]
        self._podium = Podium(self.total_steps, past.candidates, past.episodes)
        self._lock = threading.RLock()
        self._saved: int | None = past.steps if past.steps else None
        self._finished = False  # whether the summary says so
        self._saved_at, self._is_due = time.monotonic(), False
        self._first: tuple[float, int] | None = None  # time and step at the end of the first iteration
        self._last = (0.0, past.steps)  # and of the last, greedy scores left out
        self._scoring = 0.0  # seconds of these
        self._longest = max((e.length for e in past.episodes), default=0)  # of the episodes that ended
        self.evaluation: Evaluation | None = None  # of the last agent; in part, where it was interrupted
        self.best: dict[str, Any] | None = None
        self.phase: Callable[[str], None] = lambda text: None  # is told what is being done at the moment
        self._scorer = _Scorer(found, spec, config, options) if options.eval_every else None
        write_text(folder / "config.json", json.dumps(described(found, config), indent=2) + "\n")
        self._journal = Journal(folder, log_every=options.log_every, greedy=self._scorer is not None)
        self._kept = _Kept(past.steps, None, {}, self._journal.position(), past.candidates, self._notes())
        if past.steps == 0:
            self.save()  # before anything is compiled

    @property
    def steps(self) -> int:
        return self._kept.steps

    def go_on(self, state: TrainState, world: Mapping[str, Any]) -> None:
        """Where a resumed training begins."""
        self._kept = self._kept._replace(state=state, world=world)

    def record(self, progress: Progress) -> None:
        """An iteration that is finished. An interrupt waits until its rows are written."""
        greedy, seconds = None, 0.0
        if self._scorer is not None and self._scorer.due(self._kept.steps, progress.steps):
            begun = time.perf_counter()
            longest = max([self._longest, *(e.length for e in progress.episodes)])
            limits = Limits(longest=self._budget(1, longest).longest)
            limits = self._watched(limits, f"greedy score of step {progress.steps:,}")
            greedy = self._scorer.score(Trained.of(progress.state), limits)
            seconds = time.perf_counter() - begun
        with self._guard.deferred():
            self.seconds["evaluate"] += seconds
            self._scoring += seconds
            self._record(progress, greedy)
        if self._is_due:
            self.save()

    def _record(self, progress: Progress, greedy: Evaluation | None) -> None:
        begun = time.perf_counter()
        journal, world = self._journal, progress.world
        assert world is not None, "every backend of make can be restored"
        self._longest = max([self._longest, *(e.length for e in progress.episodes)])
        self._podium.consider(progress.steps, progress.episodes, Trained.of(progress.state))
        self.seconds["compile"] += progress.compile_seconds
        self.seconds["rollout"] += progress.rollout_seconds
        self.seconds["learn"] += progress.learn_seconds
        self.seconds["prepare"] += progress.prepare_seconds
        if progress.physics_seconds is not None:
            self._physics = (self._physics or 0.0) + progress.physics_seconds
        self._exact &= progress.exact
        self._crashes += len(progress.crashes)
        journal.write(progress, greedy)
        journal.flush()
        now = time.perf_counter()
        self.seconds["log"] += now - begun
        self._last = now - self._scoring, progress.steps
        self._first = self._first or self._last
        candidates = self._podium.candidates
        before, position = self._kept.steps, journal.position()
        self._kept = _Kept(progress.steps, progress.state, world, position, candidates, self._notes())
        every = self._options.checkpoint_every
        if every is None:
            self._is_due = time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS
        else:
            self._is_due = before // every < progress.steps // every

    def _pace(self) -> tuple[int, float]:
        steps, seconds = self._past.pace
        if self._first is None:
            return steps, seconds
        (first, first_step), (last, last_step) = self._first, self._last
        return steps + last_step - first_step, seconds + last - first

    def _total(self) -> float:
        return self._past.seconds["total"] + time.perf_counter() - self._begun

    def _notes(self) -> dict[str, Any]:
        return {
            "options": self._options.to_dict(),
            "seconds": {**self.seconds, "total": self._total()},
            "physics": self._physics,
            "pace": list(self._pace()),
            "exact": self._exact,
            "resumed": self._past.resumed,
            "crashes": self._crashes,
            "made_with": self._made_with,
        }

    def save(self) -> None:
        """A checkpoint of the last finished iteration, once."""
        with self._guard.deferred():
            self._save()

    def _save(self) -> None:
        with self._lock:
            kept = self._kept
            if self._saved == kept.steps:
                return
            begun = time.perf_counter()
            self._journal.sync()
            chosen = [[c.steps, c.episodic_return] for c in kept.candidates]
            notes = {**kept.notes, "logs": dict(kept.position), "candidates": chosen}
            found, agents = self._found, [c.agent for c in kept.candidates]
            manifest = Manifest(found.id, found.backend, kept.steps, self._spec, self._config, notes)
            save_training(self.folder, Training(kept.state, kept.world, agents), manifest)
            self._saved, self._saved_at = kept.steps, time.monotonic()
            self.seconds["log"] += time.perf_counter() - begun

    def save_at_once(self) -> None:
        """What can be saved while the main thread is elsewhere, before the process ends."""
        with self._lock:
            if self._finished:
                return
            self._save()
            cut(self.folder, self._kept.position)
            self._write_summary("interrupted", self.evaluation, self.best)

    def budget(self) -> Budget:
        """Of what ``evaluate`` plays."""
        return self._budget(len(self._rivals()), self._longest)

    def _budget(self, rivals: int, longest: int) -> Budget:
        return make_budget(
            self._spec,
            self._found.backend,
            self.total_steps,
            self._options,
            rivals=rivals,
            trained_longest=longest,
            trained_seconds=self._total(),
        )

    def _rivals(self) -> list[Candidate]:
        """The candidates and, behind them, the last agent."""
        kept = self._kept
        assert kept.state is not None
        last = Candidate(kept.steps, 0.0, Trained.of(kept.state))
        return [*(c for c in kept.candidates if c.steps != kept.steps), last]

    def _watched(self, limits: Limits, doing: str) -> Limits:
        def watch(ended: int, episodes: int, steps: int) -> None:
            self.phase(f"{doing}: {ended} / {episodes} episodes, {steps:,} steps")

        return dataclasses.replace(limits, watch=watch)

    def evaluate(self) -> None:
        """The greedy score of the last agent, and the best one: its steps and its score on the same episodes.

        The best is chosen among the candidates and the last, on episodes of their own (``best.choose``). What
        there is where that is interrupted is kept.
        """
        begun = time.perf_counter()
        try:
            self._evaluate(self.budget())
        finally:
            self.seconds["evaluate"] += time.perf_counter() - begun

    def _evaluate(self, budget: Budget) -> None:
        found, config, rivals = self._found, self._config, self._rivals()
        limits = dataclasses.replace(self._watched(budget.score, "scoring"), keep=self._keep)
        score = load(self.folder).evaluate(EVALUATION_EPISODES, env=found.id, limits=limits)
        self.evaluation = score
        limits = self._watched(budget.rival, f"choosing the best of {len(rivals)} agents")
        choice = choose(found, self._spec, config, rivals, episodes=RESCORING_EPISODES, limits=limits)
        chosen = rivals[choice.place]
        manifest = Manifest(found.id, found.backend, chosen.steps, self._spec, config)
        save_best(self.folder, chosen.agent, manifest)
        if chosen is not rivals[-1]:
            limits = self._watched(budget.best, "scoring the best agent")
            score = load(self.folder, "best").evaluate(len(score.length), env=found.id, limits=limits)
        self.best = {"steps": chosen.steps, "evaluation": score.summary(), "chosen_on": choice.episodes}

    def _keep(self, partial: Evaluation) -> None:
        """What there is of the score when it is interrupted."""
        self.evaluation = partial if len(partial.length) else None

    def film(self, say: Callable[[str], None]) -> None:
        """A video of the agent that was saved; where none can be made, a line that says why."""
        begun = time.perf_counter()
        try:
            for name in ("video.*", "video_best.*"):  # of an agent before this one
                for path in self.folder.glob(name):  # a link is removed, not followed
                    path.unlink()
            film(load(self.folder), self.folder / "video", env=self._found.id)
        except PoiseError as error:
            say(str(error))
        self.seconds["film"] += time.perf_counter() - begun

    def finish(self, status: str) -> dict[str, Any]:
        """Writes the curve and the summary, which it returns.

        The summary of a finished run is written last: where it is, everything is there. That of another run
        is written first: an interrupted process has only seconds left, and a curve may take longer.
        """
        self._guard.done()
        begun, evaluation = time.perf_counter(), self.evaluation
        self.phase("drawing the curve")
        self.close()
        if evaluation is not None:
            write_text(self.folder / EVALUATION, _table(evaluation))
        if status == "finished":
            self._draw()
            self.seconds["log"] += time.perf_counter() - begun
            with self._lock:
                self._finished = True
                return self._write_summary(status, evaluation, self.best)
        cut(self.folder, self._kept.position)  # rows of an iteration that did not end
        summary = self._write_summary(status, evaluation, self.best)
        with contextlib.suppress(Exception):  # without a picture the summary still says how it ended
            self._draw()
        return summary

    def _draw(self) -> None:
        title = f"{self._found.id}, seed {self._config.seed}"
        episodes, greedy = read_episodes(self.folder, most=None), read_greedy(self.folder)
        path = self.folder / "curve.png"
        draw_curve(path, title, episodes, self.total_steps, self.evaluation, greedy)

    def close(self) -> None:
        self._journal.close()
        if self._scorer is not None:
            self._scorer.close()

    def _write_summary(
        self, status: str, evaluation: Evaluation | None, best: dict[str, Any] | None
    ) -> dict[str, Any]:
        steps, seconds = self._pace()
        kept = self._kept
        summary = {
            "env": self._found.id,
            "backend": self._found.backend,
            "seed": self._config.seed,
            "steps": kept.steps,
            "status": status,
            "exact": self._exact,
            "resumed": self._past.resumed,
            "crashes": self._crashes,
            "steps_per_second": steps / seconds if seconds > 0 else None,
            "seconds": {**self.seconds, "physics": self._physics, "total": self._total()},
            "peak_memory_bytes": peak_memory(),
            "evaluation": evaluation.summary() if evaluation else None,
            "best": best,
            "parameters_sha256": parameters_sha256(kept.state) if kept.state else None,
            "versions": versions(),
            "processor": processor_name(),
            "fingerprint": fingerprint(),
            "fingerprints": list(dict.fromkeys(one["fingerprint"] for one in self._made_with)),
        }
        write_text(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        return summary


def described(found: envs.Resolved, config: Config) -> dict[str, Any]:
    """What ``config.json`` says."""
    return {"env": found.id, "backend": found.backend, **config.to_dict()}


class _Scorer:
    """Greedy scores while training, in an environment and on episodes of their own."""

    def __init__(self, found: envs.Resolved, spec: Spec, config: Config, options: Options):
        self._config, self._episodes = config, options.eval_episodes
        self._every = options.eval_every or 1
        lanes = evaluation_lanes(found.backend, self._episodes)
        self._env = envs.make(found.id, lanes, found.backend)
        self._scale = ActionScale(spec, normalize=config.normalize.action)

    def due(self, before: int, after: int) -> bool:
        return before // self._every < after // self._every

    def score(self, agent: Trained, limits: Limits) -> Evaluation:
        actor = Actor(agent.policy, agent.normalizer, self._config.normalize)
        options = {"seed": self._config.seed, "episodes": self._episodes, "stream": Stream.GREEDY}
        return evaluate(self._env, actor, self._scale, limits=limits, **options)

    def close(self) -> None:
        self._env.close()


def _table(evaluation: Evaluation) -> str:
    rows = zip(evaluation.episodic_return, evaluation.length, strict=True)
    lines = [f"{i},{one},{length}" for i, (one, length) in enumerate(rows)]
    return "\n".join(["episode,return,length", *lines]) + "\n"


def parameters_sha256(state: TrainState) -> str:
    """SHA-256 over path, shape and bytes of every policy and value parameter, in sorted order."""
    parts = {"policy": state.learner.policy, "value": state.learner.value}
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(parts)}
    digest = hashlib.sha256()
    for path in sorted(leaves):
        array = np.ascontiguousarray(leaves[path])
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
