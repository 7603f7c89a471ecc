"""The best agent of a training: a few candidates are kept, and scored again before one is chosen."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from poise import envs
from poise.agents.evaluation import UNLIMITED, Limits, evaluate, evaluation_lanes
from poise.config import Config
from poise.envs.adjusting import Settings, adjust_all
from poise.seeds import Stream
from poise.spec import Episode, Spec
from poise.store.checkpoint import Trained
from poise.training.acting import ActionScale, make_actor

PLACES = 3
SLICES = 20  # of the budget; each gives one candidate at most
WINDOW = 20  # episodes whose mean return makes a candidate


class Candidate(NamedTuple):
    """An agent, the steps it was trained for, and the mean return of the episodes up to then."""

    steps: int
    episodic_return: float
    agent: Trained


def slice_of(total_steps: int) -> int:
    """The steps from which one agent is considered at most."""
    return max(1, total_steps // SLICES)


class Podium:
    """The agents with the best training return, one from a twentieth of the budget at most.

    So two of them are not a step apart, and a rising curve does not fill all places with its end.
    """

    def __init__(self, total_steps: int, candidates: Sequence[Candidate] = (), past: Sequence[Episode] = ()):
        self._slice = slice_of(total_steps)
        self._recent = deque((e.episodic_return for e in past), maxlen=WINDOW)
        self.candidates = tuple(candidates)

    def consider(self, steps: int, episodes: Sequence[Episode], agent: Trained) -> None:
        """Considers the agent after ``steps`` steps; ``episodes``: those that ended since the last call."""
        self.collect(episodes)
        if episodes:
            self.rank(steps, agent)

    def collect(self, episodes: Sequence[Episode]) -> None:
        """Takes note of episodes that ended."""
        self._recent.extend(e.episodic_return for e in episodes)

    def rank(self, steps: int, agent: Trained) -> None:
        """Considers the agent after ``steps`` steps by the episodes collected so far, if there are any."""
        if not self._recent:
            return
        candidate = Candidate(steps, float(np.mean(self._recent)), agent)
        place = self._place(candidate)
        rivals = [c for c in self.candidates if self._place(c) == place]
        if all(candidate.episodic_return > c.episodic_return for c in rivals):
            others = [c for c in self.candidates if self._place(c) != place]
            ranked = sorted([*others, candidate], key=lambda c: c.episodic_return, reverse=True)
            self.candidates = tuple(ranked[:PLACES])

    def _place(self, candidate: Candidate) -> int:
        return (candidate.steps - 1) // self._slice


class Choice(NamedTuple):
    """The place of the best candidate, and on how many episodes it was chosen."""

    place: int
    episodes: int


def choose(
    task: envs.Resolved,
    spec: Spec,
    config: Config,
    candidates: Sequence[Candidate],
    *,
    episodes: int,
    limits: Limits = UNLIMITED,
    settings: Settings | None = None,
) -> Choice:
    """The candidate with the best greedy score; of equal ones the last.

    All play the same episodes, which neither training nor the final score has, each with its own statistics
    of observations as they were. So luck in training, or in the score that is shown, does not choose.
    ``limits``: of each candidate. Where one of them ends the list early, the others are compared on what it
    has played. ``settings``: of a curriculum.
    """
    lanes = evaluation_lanes(task.backend, episodes, limits)
    env = envs.make(task.id, lanes, task.backend, reading=spec)
    scale = ActionScale(spec, normalize=config.normalize.action)
    options = {"seed": config.seed, "stream": Stream.RESCORING, "limits": limits}
    returns, shared = [], episodes
    try:
        if settings:
            adjust_all([env], settings)
        for _, _, agent in candidates:
            actor = make_actor(agent.policy, agent.normalizer, config.normalize)
            returns.append(evaluate(env, actor, scale, episodes=shared, **options).episodic_return)
            shared = min(shared, len(returns[-1]))
    finally:
        env.close()
    scores = [float(np.mean(values[:shared])) for values in returns]
    return Choice(max(range(len(scores)), key=lambda i: (scores[i], i)), shared)
