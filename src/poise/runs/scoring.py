"""The greedy scores of a training: while it trains, at its end, and of its best agent."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poise import envs
from poise.agents.agent import load
from poise.agents.best import Candidate, choose
from poise.agents.evaluation import Evaluation, Limits, evaluate, evaluation_lanes
from poise.envs.adjusting import Settings, adjust_all
from poise.runs.budget import Budget, make_budget
from poise.runs.setup import Setup
from poise.runs.writers.tally import Tally
from poise.seeds import Stream
from poise.store.checkpoint import Trained, save_best
from poise.training.acting import ActionScale, make_actor
from poise.training.iteration import Progress
from poise.training.starting.curriculum import settings_in
from poise.wording import counted

EVALUATION_EPISODES = 100
RESCORING_EPISODES = 32


class Scores:
    """Scores agents greedily within their budget, and keeps the results.

    Attributes:
        evaluation: the score of the last agent; if it was interrupted, of the episodes up to then.
        best: the best agent's steps and its score on the same episodes, as ``summary.json`` has them.
        phase: is called with a description of what is being scored.
    """

    def __init__(self, folder: Path, setup: Setup, tally: Tally):
        self._folder, self._setup, self._tally = folder, setup, tally
        self.evaluation: Evaluation | None = None
        self.best: dict[str, Any] | None = None
        self.phase: Callable[[str], None] = lambda text: None
        self._while_training = _WhileTraining(setup) if setup.options.eval_every else None

    def while_training(self, before: int, progress: Progress) -> Evaluation | None:
        """The greedy score of an iteration's agent; None where none is due.

        ``before``: environment steps at the end of the iteration before.
        """
        every = self._setup.options.eval_every
        if self._while_training is None or every is None or before // every == progress.steps // every:
            return None
        longest = max([self._tally.longest, *(e.length for e in progress.episodes)])
        limits = Limits(longest=self._budget(1, longest, self._setup.total_steps).longest)
        limits = self._shown(limits, f"greedy score of step {progress.steps:,}")
        with self._tally.timed("evaluate"):
            self._while_training.adjust(settings_in(progress.world))
            return self._while_training.score(Trained.of(progress.state), limits)

    def budget(self, rivals: list[Candidate]) -> Budget:
        """What the scores at the end may cost. ``rivals``: as of ``at_the_end``."""
        return self._budget(len(rivals), self._tally.longest, rivals[-1].steps)

    def at_the_end(self, rivals: list[Candidate]) -> None:
        """Scores the last agent, which is saved and the last of ``rivals``, and chooses and scores the best.

        The best is chosen on episodes of their own (``best.choose``).
        """
        setup, budget = self._setup, self.budget(rivals)
        limits = dataclasses.replace(self._shown(budget.score, "scoring"), keep=self._keep)
        agent = load(self._folder)
        settings = agent.settings_for(setup.task)
        score = agent.evaluate(EVALUATION_EPISODES, env=setup.task.id, limits=limits)
        self.evaluation = score
        limits = self._shown(budget.rival, f"choosing the best of {len(rivals)} agents")
        rules: dict[str, Any] = {"episodes": RESCORING_EPISODES, "limits": limits, "settings": settings}
        choice = choose(setup.task, setup.spec, setup.config, rivals, **rules)
        chosen = rivals[choice.place]
        notes = {"settings": settings} if settings else {}
        save_best(self._folder, chosen.agent, setup.manifest(chosen.steps, notes))
        if chosen is not rivals[-1]:
            limits = self._shown(budget.best, "scoring the best agent")
            best = load(self._folder, "best")
            score = best.evaluate(len(score.length), env=setup.task.id, limits=limits)
        self.best = {"steps": chosen.steps, "evaluation": score.summary(), "chosen_on": choice.episodes}

    def close(self) -> None:
        if self._while_training is not None:
            self._while_training.close()

    def _keep(self, partial: Evaluation) -> None:
        self.evaluation = partial if len(partial.length) else None

    def _budget(self, num_rivals: int, longest: int, total_steps: int) -> Budget:
        setup = self._setup
        return make_budget(
            setup.spec,
            setup.task.backend,
            total_steps,
            setup.options,
            rivals=num_rivals,
            trained_longest=longest,
            trained_seconds=self._tally.total_seconds(),
        )

    def _shown(self, limits: Limits, doing: str) -> Limits:
        def watch(ended: int, episodes: int, steps: int) -> None:
            self.phase(f"{doing}: {ended} / {counted(episodes, 'episode')}, {counted(steps, 'step')}")

        return dataclasses.replace(limits, watch=watch)


class _WhileTraining:
    """Scores agents while training, in environments of its own."""

    def __init__(self, setup: Setup):
        self._config, self._episodes = setup.config, setup.options.eval_episodes
        lanes = evaluation_lanes(setup.task.backend, self._episodes)
        self._env = envs.make(setup.task.id, lanes, setup.task.backend, reading=setup.spec)
        self._scale = ActionScale(setup.spec, normalize=setup.config.normalize.action)

    def adjust(self, settings: Settings) -> None:
        """Scores from here on are with these settings of a curriculum."""
        if settings:
            adjust_all([self._env], settings)

    def score(self, agent: Trained, limits: Limits) -> Evaluation:
        actor = make_actor(agent.policy, agent.normalizer, self._config.normalize)
        options = {"seed": self._config.seed, "episodes": self._episodes, "stream": Stream.GREEDY}
        return evaluate(self._env, actor, self._scale, limits=limits, **options)

    def close(self) -> None:
        self._env.close()
