"""The episodes that ``poise check`` plays.

Each action reaches the environment as in a training: from the policy's units, through the same scaling, as
the type that Gymnasium's vector environments hand over. All that comes back is kept.
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

STEPS = 4000  # of one episode, and of all random episodes together, at most
NUMBERS = 5_000_000  # observed numbers of one episode, at most: those of pictures would fill the memory
EXTREME = 10.0  # the end of a dimension without bounds, in the policy's units
WATCHED = 2000  # steps in which arrays are compared before and after
STICKY = 0.95  # how probable it is that a sticky action is repeated: some 20 steps
Send = Callable[[str, Any], None]
Choose = Callable[[int], Any]  # the action of each step, as the environment is given it


@dataclass
class Played:
    """An episode, or its beginning; ``obs`` has one row more than the others."""

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
        """Whether it came to its end: it may have been left before."""
        return self.terminated or self.truncated


def differs_at(one: Played, two: Played) -> int | None:
    """The first step whose observation, reward or end is not the same; None where all that both have is."""
    count = min(one.length, two.length)
    for step in range(count + 1):
        if one.obs[step].tobytes() != two.obs[step].tobytes():
            return step
        if step and one.reward[step - 1] != two.reward[step - 1]:
            return step
    return count if rewards_differ(one, two) else None


def rewards_differ(one: Played, two: Played) -> bool:
    """Whether rewards or ends tell the two apart; what only one of them came to does not."""
    count = min(one.length, two.length)
    if one.reward[:count] != two.reward[:count]:
        return True
    ends = [(p.terminated, p.truncated) if p.length == count else (False, False) for p in (one, two)]
    left = any(p.length == count and not p.ended for p in (one, two))
    return ends[0] != ends[1] and not left


class Alone(gym.Env):
    """One simulation of a task that Gymnasium does not have, as Gymnasium would have it."""

    def __init__(self, found: envs.Resolved):
        self._env = envs.make(found.id, 1, found.backend)
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
        done = self._env.step(row)
        obs = np.asarray(done.next_obs)[0].reshape(self.observation_space.shape or ())
        return obs, float(done.reward[0]), bool(done.terminated[0]), bool(done.truncated[0]), {}

    def close(self) -> None:
        self._env.close()


class Play:
    """Two instances of an environment, what was played on the first, and how long it took.

    ``own``: whether it is not Gymnasium's (``Alone``). ``seconds``: what random play may take; a quick
    environment needs a tenth of that. ``send`` hears what is being done.
    """

    def __init__(
        self, id: str, spec: Spec, envs_made: Sequence[gym.Env], send: Send, *, own: bool, seconds: float
    ):
        self.id, self.spec, self.own = id, spec, own
        self.env, self.other = envs_made
        self.seconds = seconds
        self.random_play: list[Played] = []
        self.other_play: list[Played] = []  # with actions that are repeated, and with both ends
        self.steps: list[float] = []  # seconds
        self.resets: list[float] = []
        self.aliased = self.changed = False
        self.repeatable = True
        self.place = (0, 0)  # the seed and the step that is being made
        self._send = send
        self._end, self._told = np.inf, 0.0
        self._scale = ActionScale(spec, normalize=True)
        self._space = self.env.action_space
        self._scaled = np.array(spec.scaled, bool)
        self._shape = (1, *(self._space.shape or ()))
        self._batched = batch_space(self._space, 1)

    @property
    def episodes(self) -> list[Played]:
        return self.random_play + self.other_play

    @property
    def most(self) -> int:
        """Steps of an episode."""
        return int(np.clip(NUMBERS // max(1, self.spec.obs_size), 50, STEPS))

    @property
    def late(self) -> bool:
        return time.perf_counter() > self._end

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Episodes are left after these seconds, or before where there are fewer already."""
        before = self._end
        self._end = min(before, time.perf_counter() + seconds)
        try:
            yield
        finally:
            self._end = before

    def doing(self, what: str) -> None:
        """Tells the parent, at most ten times a second."""
        if time.perf_counter() - self._told > 0.1:
            self._told = time.perf_counter()
            self._send("doing", what)

    def play(
        self, kind: str, seed: int, choose: Choose, *, most: int | None = None, other: bool = False
    ) -> Played:
        """An episode, at most ``most`` steps of it; ``other``: in the other instance."""
        env = self.other if other else self.env
        played, self.place = Played(kind, seed), (seed, 0)
        self.doing(f"an episode of seed {seed} was begun")
        begun = time.perf_counter()
        obs, _ = env.reset(seed=seed)
        self.resets.append(time.perf_counter() - begun)
        played.obs.append(np.array(obs))
        for step in range(self.most if most is None else min(most, self.most)):
            obs = self._step(env, played, obs, choose(step))
            if played.ended or self.late:
                break
        return played

    def _step(self, env: gym.Env, played: Played, obs: Any, action: Any) -> Any:
        look = len(self.steps) < WATCHED
        before, given = np.array(obs) if look else obs, np.array(action)
        self.place = (played.seed, played.length + 1)
        self.doing(f"step {played.length + 1} of the episode of seed {played.seed} was made")
        begun = time.perf_counter()
        after, reward, terminated, truncated, _ = env.step(action)
        self.steps.append(time.perf_counter() - begun)
        if look:
            self.aliased |= not np.array_equal(obs, before)
            self.changed |= not np.array_equal(given, action)
        played.obs.append(np.array(after))
        played.action.append(given)
        played.reward.append(float(reward))
        played.terminated, played.truncated = bool(terminated), bool(truncated)
        return after

    def given(self, action: Any) -> Any:
        """What the environment gets for an action in the policy's units, or for a choice from 0 on."""
        batch = np.asarray(self._scale(np.asarray(action, None if self.spec.discrete else np.float32)[None]))
        batch = batch.reshape(self._shape) + self.spec.first_choice
        return next(iter(iterate(self._batched, batch.astype(self._batched.dtype))))

    def again(self, played: Played, *, other: bool = False, most: int | None = None) -> Played:
        """Its seed and its actions once more."""
        rows = played.action

        def choose(step: int) -> Any:
            row = np.array(rows[step])[None].astype(self._batched.dtype)
            return next(iter(iterate(self._batched, row)))

        count = played.length if most is None else min(most, played.length)
        return self.play("again", played.seed, choose, other=other, most=count)

    def random(self, seed: int) -> Choose:
        """Actions drawn evenly over the range; where there is no bound, from a normal distribution."""
        rng = np.random.default_rng(seed)
        return lambda step: self.given(self._draw(rng))

    def sticky(self, seed: int) -> Choose:
        """The same, but each is mostly repeated: slow systems and far goals need that."""
        rng, kept = np.random.default_rng((seed, 1)), [None]

        def choose(step: int) -> Any:
            if kept[0] is None or rng.random() > STICKY:
                kept[0] = self._draw(rng)
            return self.given(kept[0])

        return choose

    def _draw(self, rng: np.random.Generator) -> Any:
        if self.spec.discrete:
            return int(rng.integers(self.spec.action_size))
        bounded = rng.uniform(-1, 1, self._scaled.size)
        return bounded if self._scaled.all() else self.in_units(bounded, rng.normal(size=self._scaled.size))

    def held(self, action: Any) -> Choose:
        """One action all the time, in the policy's units, or one choice."""
        return lambda step: self.given(action)

    def end(self, side: float) -> Float[np.ndarray, " A"]:
        """One end of every dimension."""
        ones = np.full(self.spec.action_size, side)
        return self.in_units(ones, EXTREME * ones)

    def in_units(
        self, bounded: Float[np.ndarray, " A"], unbounded: Float[np.ndarray, " A"]
    ) -> Float[np.ndarray, " A"]:
        """The first where a dimension has bounds that [-1, 1] is rescaled to, the second elsewhere."""
        return np.where(self._scaled, bounded, unbounded).astype(np.float32)


_INSIDE = re.compile(rf" \(line \d+ of {re.escape(str(Path(__file__).parents[1]))}[^)]*\)")


def outside(text: str) -> str:
    """A message without the lines of poise that were on its way: they say nothing of the environment."""
    return _INSIDE.sub("", text)


def fault_in_words(fault: EnvFault, play: Play) -> str:
    """Its message. Of a task's own, which comes through ``Alone``, the inner one, with seed and step."""
    inner = fault.__cause__
    if not (play.own and isinstance(inner, EnvFault)):
        return outside(str(fault))
    seed, step = play.place
    return f"{outside(str(inner))}; episode seed {seed}, " + (f"step {step}" if step else "at its reset")
