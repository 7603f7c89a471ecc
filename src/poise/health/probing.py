"""The episodes that ``poise check`` plays.

Each action reaches the environment as in a training: from the policy's units, through the same scaling, in
the type that Gymnasium's vector environments pass on. Everything that comes back is kept.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space, iterate
from jaxtyping import Float

from poise import envs
from poise.envs.checking import EnvFault
from poise.spec import Spec
from poise.training.acting import ActionScale, quiet

STEPS = 4000  # limit of one episode, and of all random episodes together
NUMBERS = 5_000_000  # limit of observed numbers in one episode: images would fill the memory
EXTREME = 10.0  # the extreme action of a dimension without bounds, in the policy's units
COMPARED_STEPS = 2000  # steps in which arrays are compared before and after
STICKY = 0.95  # probability that a sticky action is repeated: about 20 steps on average
STICKY_STEPS = 1000  # limit of one episode with repeated or extreme actions
Send = Callable[[str, Any], None]
Choose = Callable[[int], Any]  # the action for each step, as the environment gets it


@dataclass
class PlayedEpisode:
    """An episode or its beginning; ``obs`` has one row more than the other lists."""

    kind: str
    seed: int
    obs: list[np.ndarray] = field(default_factory=list)
    action: list[Any] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False

    @property
    def length(self) -> int:
        return len(self.reward)

    @property
    def ended(self) -> bool:
        """Whether it was played to its end."""
        return self.terminated or self.truncated


def first_difference(first: PlayedEpisode, second: PlayedEpisode) -> int | None:
    """The first step whose observation, reward or end differs; None if there is no such step in both."""
    count = min(first.length, second.length)
    for step in range(count + 1):
        if first.obs[step].tobytes() != second.obs[step].tobytes():
            return step
        if step and first.reward[step - 1] != second.reward[step - 1]:
            return step
    return count if rewards_differ(first, second) else None


def rewards_differ(first: PlayedEpisode, second: PlayedEpisode) -> bool:
    """Whether rewards or ends differ in the steps that both episodes have."""
    count = min(first.length, second.length)
    if first.reward[:count] != second.reward[:count]:
        return True
    both = first, second
    ends = [(e.terminated, e.truncated) if e.length == count else (False, False) for e in both]
    stopped_early = any(e.length == count and not e.ended for e in both)
    return ends[0] != ends[1] and not stopped_early


class TaskAdapter(gym.Env):
    """One simulation of a task of poise's own backends, with Gymnasium's interface."""

    def __init__(self, resolved: envs.Resolved):
        self._env = envs.make(resolved.id, 1, resolved.backend)
        spec = self._env.spec
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, spec.obs_shape, np.float64)
        if spec.discrete:
            self.action_space: gym.Space = gym.spaces.Discrete(spec.action_size, start=spec.first_choice)
            return
        with quiet():
            bounds = (spec.action_low, spec.action_high)
            low, high = (np.array(b, np.float32).reshape(spec.action_shape) for b in bounds)
        self.action_space = gym.spaces.Box(low, high, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        obs = self._env.reset(np.ones(1, bool), [0 if seed is None else seed])
        return np.asarray(obs)[0].reshape(self.observation_space.shape or ()), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict]:
        spec = self._env.spec
        row = np.asarray(action).reshape(1, *spec.action_shape) - spec.first_choice
        result = self._env.step(row)
        obs = np.asarray(result.next_obs)[0].reshape(self.observation_space.shape or ())
        return obs, float(result.reward[0]), bool(result.terminated[0]), bool(result.truncated[0]), {}

    def close(self) -> None:
        self._env.close()


class Play:
    """Two instances of an environment, the episodes that were played, and how long they took.

    Args:
        id: of the environment.
        spec: its spaces and time limit.
        instances: two of the same environment; the first is played, the second compared with it.
        send: is told what is being done.
        is_task: whether it is a task of poise's own backends (``TaskAdapter``), not one of Gymnasium.
        seconds: limit of random play; a fast environment needs a tenth of that.
    """

    def __init__(
        self, id: str, spec: Spec, instances: Sequence[gym.Env], send: Send, *, is_task: bool, seconds: float
    ):
        self.id, self.spec, self.is_task = id, spec, is_task
        self.env, self.other = instances
        self.seconds = seconds
        self.random_episodes: list[PlayedEpisode] = []
        self.other_episodes: list[PlayedEpisode] = []  # with repeated actions, and with extreme ones
        self.step_seconds: list[float] = []
        self.reset_seconds: list[float] = []
        self.obs_changed = False  # whether an array that was returned changed later
        self.action_changed = False  # whether step wrote into its argument
        self.repeatable = True
        self.current = (0, 0)  # the seed and the step that is being made
        self._send = send
        self._deadline, self._last_sent = np.inf, 0.0
        self._scale = ActionScale(spec, normalize=True)
        self._space = self.env.action_space
        self._scaled = np.array(spec.scaled, bool)
        self._shape = (1, *(self._space.shape or ()))
        self._batched = batch_space(self._space, 1)

    @property
    def episodes(self) -> list[PlayedEpisode]:
        return self.random_episodes + self.other_episodes

    @property
    def max_steps(self) -> int:
        """Limit of one episode."""
        return int(np.clip(NUMBERS // max(1, self.spec.obs_size), 50, STEPS))

    @property
    def time_is_up(self) -> bool:
        return time.perf_counter() > self._deadline

    @contextmanager
    def limit_time(self, seconds: float) -> Iterator[None]:
        """Stop episodes after ``seconds``, or earlier if an outer limit ends earlier."""
        outer = self._deadline
        self._deadline = min(outer, time.perf_counter() + seconds)
        try:
            yield
        finally:
            self._deadline = outer

    def doing(self, activity: str) -> None:
        """Tell the parent process, at most ten times a second."""
        if time.perf_counter() - self._last_sent > 0.1:
            self._last_sent = time.perf_counter()
            self._send("doing", activity)

    def play(
        self, kind: str, seed: int, choose: Choose, *, limit: int | None = None, other: bool = False
    ) -> PlayedEpisode:
        """One episode, at most ``limit`` steps of it; ``other``: in the other instance."""
        env = self.other if other else self.env
        episode, self.current = PlayedEpisode(kind, seed), (seed, 0)
        self.doing(f"starting an episode (seed {seed})")
        start = time.perf_counter()
        obs, _ = env.reset(seed=seed)
        self.reset_seconds.append(time.perf_counter() - start)
        episode.obs.append(np.array(obs))
        for step in range(self.max_steps if limit is None else min(limit, self.max_steps)):
            obs = self._step(env, episode, obs, choose(step))
            if episode.ended or self.time_is_up:
                break
        return episode

    def _step(self, env: gym.Env, episode: PlayedEpisode, obs: Any, action: Any) -> Any:
        compare = len(self.step_seconds) < COMPARED_STEPS
        obs_before, action_before = np.array(obs) if compare else obs, np.array(action)
        self.current = (episode.seed, episode.length + 1)
        self.doing(f"making step {episode.length + 1} of an episode (seed {episode.seed})")
        start = time.perf_counter()
        after, reward, terminated, truncated, _ = env.step(action)
        self.step_seconds.append(time.perf_counter() - start)
        if compare:
            self.obs_changed |= not np.array_equal(obs, obs_before)
            self.action_changed |= not np.array_equal(action_before, action)
        episode.obs.append(np.array(after))
        episode.action.append(action_before)
        episode.reward.append(float(reward))
        episode.terminated, episode.truncated = bool(terminated), bool(truncated)
        return after

    def to_env(self, action: Any) -> Any:
        """The environment's action for one in the policy's units, or for a choice counted from 0."""
        batch = np.asarray(self._scale(np.asarray(action, None if self.spec.discrete else np.float32)[None]))
        batch = batch.reshape(self._shape) + self.spec.first_choice
        return next(iter(iterate(self._batched, batch.astype(self._batched.dtype))))

    def repeat(
        self, episode: PlayedEpisode, *, other: bool = False, limit: int | None = None
    ) -> PlayedEpisode:
        """Play again with the same seed and the same actions."""
        rows = episode.action

        def choose(step: int) -> Any:
            row = np.array(rows[step])[None].astype(self._batched.dtype)
            return next(iter(iterate(self._batched, row)))

        count = episode.length if limit is None else min(limit, episode.length)
        return self.play("again", episode.seed, choose, other=other, limit=count)

    def random(self, seed: int) -> Choose:
        """Uniform actions over the range; normally distributed in dimensions without bounds."""
        rng = np.random.default_rng(seed)
        return lambda step: self.to_env(self._draw(rng))

    def sticky(self, seed: int) -> Choose:
        """Random actions that are repeated for a while: slow systems and far goals need that."""
        rng, held = np.random.default_rng((seed, 1)), [None]

        def choose(step: int) -> Any:
            if held[0] is None or rng.random() > STICKY:
                held[0] = self._draw(rng)
            return self.to_env(held[0])

        return choose

    def _draw(self, rng: np.random.Generator) -> Any:
        if self.spec.discrete:
            return int(rng.integers(self.spec.action_size))
        bounded = rng.uniform(-1, 1, self._scaled.size)
        if self._scaled.all():
            return bounded
        return self.by_bounds(bounded, rng.normal(size=self._scaled.size))

    def hold(self, action: Any) -> Choose:
        """The same action at every step, in the policy's units, or the same choice."""
        return lambda step: self.to_env(action)

    def extreme(self, side: float) -> Float[np.ndarray, " A"]:
        """The lower (-1) or upper (1) end of every dimension."""
        ones = np.full(self.spec.action_size, side)
        return self.by_bounds(ones, EXTREME * ones)

    def by_bounds(
        self, bounded: Float[np.ndarray, " A"], unbounded: Float[np.ndarray, " A"]
    ) -> Float[np.ndarray, " A"]:
        """``bounded`` in dimensions whose bounds [-1, 1] is rescaled to, ``unbounded`` in the others."""
        return np.where(self._scaled, bounded, unbounded).astype(np.float32)


_INSIDE = re.compile(rf" \(line \d+ of {re.escape(str(Path(__file__).parents[1]))}[^)]*\)")


def without_poise_lines(text: str) -> str:
    """A message without references to lines of poise: they say nothing about the environment."""
    return _INSIDE.sub("", text)


def fault_in_words(fault: EnvFault, play: Play) -> str:
    """The message of a fault; for a ``TaskAdapter`` that of the task's own fault, with seed and step."""
    inner = fault.__cause__
    if not (play.is_task and isinstance(inner, EnvFault)):
        return without_poise_lines(str(fault))
    seed, step = play.current
    place = f"step {step}" if step else "at its reset"
    return f"{without_poise_lines(str(inner))}; episode seed {seed}, {place}"
