"""The episodes that ``poise check`` plays.

Each action reaches the environment as in a training: from the policy's units, through the same scaling, in
the type that Gymnasium's vector environments pass on, and never a choice that a mask forbids. Everything that
comes back is kept.
"""

import copy
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import jax
import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector.utils import batch_space, iterate
from jaxtyping import Float, Int8, Shaped

from poise import envs
from poise.envs.checking import Checked, EnvFault
from poise.envs.native.jax_env import JaxEnv, JaxTask
from poise.spec import MASK, Leaf, Spec
from poise.training.acting import ActionScale, quiet

STEPS = 4000  # limit of one episode, and of all random episodes together
NUMBERS = 5_000_000  # limit of observed numbers in one episode: images would fill the memory
EXTREME = 10.0  # the extreme action of a dimension without bounds, in the policy's units
COMPARED_STEPS = 2000  # steps in which arrays are compared before and after
STICKY = 0.95  # probability that a sticky action is repeated: about 20 steps on average
STICKY_STEPS = 1000  # limit of one episode with repeated or extreme actions
Send = Callable[[str, Any], None]
Mask = Int8[np.ndarray, " M"] | None  # which values of the choices are allowed; None: all of them
Kind = Literal["gymnasium", "task", "jax"]  # a class of Gymnasium's, a task of the batch engine, a JaxEnv
Choose = Callable[[int, Mask], Any]  # the action for each step, as the environment gets it


@dataclass
class PlayedEpisode:
    """An episode or its beginning.

    ``obs``: the arrays of each observation by the names of the leaves; one entry more than the other lists.
    """

    kind: str
    seed: int
    obs: list[dict[str, np.ndarray]] = field(default_factory=list)
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
        if as_bytes(first.obs[step]) != as_bytes(second.obs[step]):
            return step
        if step and first.reward[step - 1] != second.reward[step - 1]:
            return step
    return count if rewards_differ(first, second) else None


def as_bytes(obs: dict[str, np.ndarray]) -> list[bytes]:
    """The bytes of each array of an observation."""
    return [array.tobytes() for array in obs.values()]


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
    """One simulation of a task of poise's own backends, with Gymnasium's interface.

    Such a task observes one vector, several by their names, or one image. It acts by one box or one choice.
    """

    def __init__(self, resolved: envs.Resolved):
        self._env = envs.make(resolved.id, 1, resolved.backend)
        spec = self._env.spec
        spaces: dict[str, gym.Space] = {leaf.name: _space(leaf) for leaf in spec.obs}
        self._alone = len(spec.obs) == 1 and not spec.obs[0].path
        self.observation_space: gym.Space = gym.spaces.Dict(spaces)
        if self._alone:
            self.observation_space = spaces[spec.obs[0].name]
        (part,) = spec.action
        if not part.is_box:
            self.action_space: gym.Space = gym.spaces.Discrete(part.sizes[0], start=part.first[0])
            return
        with quiet():
            low, high = (np.array(b, np.float32).reshape(part.shape) for b in (part.low, part.high))
        self.action_space = gym.spaces.Box(low, high, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        return self._leaves(self._env.reset(np.ones(1, bool), [0 if seed is None else seed])), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict]:
        (part,) = self._env.spec.action
        row = np.asarray(action).reshape(1, *part.shape)
        result = self._env.step(row if part.is_box else row - part.first[0])
        ends = bool(result.terminated[0]), bool(result.truncated[0])
        return self._leaves(result.next_obs), float(result.reward[0]), *ends, {}

    def _leaves(self, obs: Any) -> Any:
        """The observation in the shapes of its space."""
        spec = self._env.spec
        if spec.images:
            return obs[spec.images[0].name][0]
        row = np.asarray(obs)[0]
        if self._alone:
            return row.reshape(spec.obs[0].shape)
        return {leaf.name: row[spec.columns(leaf.name)].reshape(leaf.shape) for leaf in spec.obs}

    def close(self) -> None:
        self._env.close()


class JaxAdapter(gym.Env):
    """One environment in JAX with Gymnasium's interface."""

    def __init__(self, task: JaxTask):
        self._task, self._limit = task, task.spec.time_limit
        self.observation_space, self.action_space = task.env.observation_space, task.env.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        self._key, self._elapsed = jax.random.key(0 if seed is None else seed), 0
        self._state = self._task.reset(self._key)
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict]:
        elapsed = np.int32(self._elapsed)
        self._state, reward, terminated, _ = self._task.step(self._state, action, self._key, elapsed)
        self._elapsed += 1
        return self._obs(), float(reward), bool(terminated), self._elapsed == self._limit, {}

    @property
    def env_in_jax(self) -> JaxEnv:
        return self._task.env

    def draw(self) -> Any:
        """A picture of the state."""
        return self._task.env.draw(self._state, None)

    def _obs(self) -> Any:
        return jax.tree.map(np.array, self._task.observe(self._state))


def _space(leaf: Leaf) -> gym.Space:
    if leaf.kind == "image":
        return gym.spaces.Box(int(leaf.low), int(leaf.high), leaf.shape, np.uint8)
    return gym.spaces.Box(-np.inf, np.inf, leaf.shape, np.float64)


class Watched(gym.Wrapper):
    """Sees whether ``step`` writes into a nested action, which ``Checked`` makes anew for each step."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.action_changed = False
        self._steps = 0

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict]:
        if self._steps >= COMPARED_STEPS:
            return self.env.step(action)
        self._steps += 1
        before = copy.deepcopy(action)
        returned = self.env.step(action)
        self.action_changed |= not data_equivalence(before, action, exact=True)
        return returned


class Play:
    """Two instances of an environment, the episodes that were played, and how long they took.

    Args:
        id: of the environment.
        spec: its spaces and time limit.
        instances: two of the same environment; the first is played, the second compared with it.
        send: is told what is being done.
        kind: how it is written; what helps depends on that.
        seconds: limit of random play; a fast environment needs a tenth of that.
    """

    def __init__(
        self, id: str, spec: Spec, instances: Sequence[Checked], send: Send, *, kind: Kind, seconds: float
    ):
        self.id, self.spec, self.kind = id, spec, kind
        self.env, self.other = instances
        self.seconds = seconds
        self.random_episodes: list[PlayedEpisode] = []
        self.other_episodes: list[PlayedEpisode] = []  # with repeated actions, and with extreme ones
        self.step_seconds: list[float] = []
        self.reset_seconds: list[float] = []
        self.obs_changed: set[str] = set()  # names of the leaves whose array changed after it was returned
        self.action_changed = False  # whether step wrote into its argument
        self.repeatable = True
        self.current = (0, 0)  # the seed and the step that is being made
        self._send = send
        self._deadline, self._last_sent = np.inf, 0.0
        self._scale = ActionScale(spec, normalize=True)
        self._scaled = np.array(spec.scaled, bool)
        self._nested = any(part.path for part in spec.action)  # then the instances take rows
        self._first = (
            0 if self._nested else np.array([first for part in spec.choices for first in part.first])
        )
        self._batched = batch_space(self.env.action_space, 1)

    def advice(self, *, gymnasium: str, task: str, jax: str) -> str:
        """What helps, by how the environment is written."""
        return {"gymnasium": gymnasium, "task": task, "jax": jax}[self.kind]

    @property
    def episodes(self) -> list[PlayedEpisode]:
        return self.random_episodes + self.other_episodes

    @property
    def max_steps(self) -> int:
        """Limit of one episode."""
        numbers = sum(math.prod(leaf.shape) for leaf in self.spec.obs)
        return int(np.clip(NUMBERS // max(1, numbers), 50, STEPS))

    @property
    def time_is_up(self) -> bool:
        return time.perf_counter() > self._deadline

    def space(self, leaf: Leaf) -> gym.Space:
        """What the environment declares for a leaf of its observation."""
        space = self.env.observation_space
        return space[leaf.name] if isinstance(space, gym.spaces.Dict) else space

    def values(self, leaf: Leaf) -> Shaped[np.ndarray, "steps ..."]:
        """All arrays of one leaf that were observed."""
        return np.stack([obs[leaf.name] for episode in self.episodes for obs in episode.obs])

    def named(self, obs: Any) -> dict[str, np.ndarray]:
        """The arrays of an observation by the names of the leaves."""
        return obs if isinstance(obs, dict) else {self.spec.obs[0].name: obs}

    def mask_of(self, obs: dict[str, np.ndarray]) -> Mask:
        return obs[MASK] if self.spec.masked else None

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
        obs = self.named(env.reset(seed=seed)[0])
        self.reset_seconds.append(time.perf_counter() - start)
        episode.obs.append(_copied(obs))
        for step in range(self.max_steps if limit is None else min(limit, self.max_steps)):
            obs = self._step(env, episode, obs, choose(step, self.mask_of(obs)))
            if episode.ended or self.time_is_up:
                break
        return episode

    def _step(
        self, env: gym.Env, episode: PlayedEpisode, obs: dict[str, np.ndarray], action: Any
    ) -> dict[str, np.ndarray]:
        compare = len(self.step_seconds) < COMPARED_STEPS
        action_before = np.array(action)
        self.current = (episode.seed, episode.length + 1)
        self.doing(f"making step {episode.length + 1} of an episode (seed {episode.seed})")
        start = time.perf_counter()
        returned, reward, terminated, truncated, _ = env.step(action)
        self.step_seconds.append(time.perf_counter() - start)
        if compare:
            before = episode.obs[-1]
            self.obs_changed |= {name for name in obs if not np.array_equal(obs[name], before[name])}
            self.action_changed |= not np.array_equal(action_before, action)
            self.action_changed |= isinstance(self.env.env, Watched) and self.env.env.action_changed
        after = self.named(returned)
        episode.obs.append(_copied(after))
        episode.action.append(action_before)
        episode.reward.append(float(reward))
        episode.terminated, episode.truncated = bool(terminated), bool(truncated)
        return after

    def to_env(self, action: Any, mask: Mask = None) -> Any:
        """The environment's action for one in the policy's units, whose choices count from 0.

        A choice that ``mask`` forbids becomes the next one that is allowed.
        """
        row = self.allowed(np.asarray(action, np.float32 if self.spec.boxes else None), mask)
        batch = np.asarray(self._scale(row[None]))
        if self.spec.choices:
            batch = batch.reshape(1, -1) + self._first
        batch = batch.reshape(self._batched.shape or ()).astype(self._batched.dtype)
        if isinstance(self._batched, gym.spaces.Box):  # some ranges have no float32 within
            batch = batch.clip(self._batched.low, self._batched.high)
        return next(iter(iterate(self._batched, batch)))

    def allowed(self, row: Shaped[np.ndarray, " *row"], mask: Mask) -> Shaped[np.ndarray, " *row"]:
        """The same action in the policy's units; a choice that ``mask`` forbids is the next one allowed."""
        if mask is None:
            return row
        columns, start = row.reshape(-1).copy(), 0
        for k, size in enumerate(self.spec.sizes, self.spec.box_size):
            allowed = np.flatnonzero(mask[start : start + size])
            columns[k] = allowed[np.searchsorted(allowed, columns[k]) % len(allowed)]
            start += size
        return columns.reshape(row.shape)

    def repeat(
        self, episode: PlayedEpisode, *, other: bool = False, limit: int | None = None
    ) -> PlayedEpisode:
        """Play again with the same seed and the same actions."""
        rows = episode.action

        def choose(step: int, mask: Mask) -> Any:
            row = np.array(rows[step])[None].astype(self._batched.dtype)
            return next(iter(iterate(self._batched, row)))

        count = episode.length if limit is None else min(limit, episode.length)
        return self.play("again", episode.seed, choose, other=other, limit=count)

    def random(self, seed: int) -> Choose:
        """Uniform actions over the range and over what is allowed; normal in dimensions without bounds."""
        rng = np.random.default_rng(seed)
        return lambda step, mask: self.to_env(self.draw(rng, mask))

    def sticky(self, seed: int) -> Choose:
        """Random actions that are repeated for a while: slow systems and far goals need that."""
        rng, held = np.random.default_rng((seed, 1)), [None]

        def choose(step: int, mask: Mask) -> Any:
            if held[0] is None or rng.random() > STICKY:
                held[0] = self.draw(rng, mask)
            return self.to_env(held[0], mask)

        return choose

    def draw(self, rng: np.random.Generator, mask: Mask) -> Any:
        """A random action in the policy's units."""
        box, values, start = rng.uniform(-1, 1, self.spec.box_size), [], 0
        if not self._scaled.all():
            box = self.by_bounds(box, rng.normal(size=self.spec.box_size))
        for size in self.spec.sizes:
            allowed = np.arange(size) if mask is None else np.flatnonzero(mask[start : start + size])
            values.append(int(allowed[rng.integers(len(allowed))]))
            start += size
        return self.row(box, values)

    def row(self, box: Float[np.ndarray, " A"], values: Sequence[int]) -> Any:
        """An action in the policy's units, of the dimensions of boxes and the values of choices."""
        if not self.spec.boxes:
            return np.array(values).reshape(self.spec.action_row)
        return np.concatenate([box, values]) if values else box

    def hold(self, action: Any) -> Choose:
        """The same action at every step, in the policy's units."""
        return lambda step, mask: self.to_env(action, mask)

    def extreme(self, side: float) -> Float[np.ndarray, " row"]:
        """The lower (-1) or upper (1) end of every dimension; the first or the last value of every choice."""
        ones = np.full(self.spec.box_size, side)
        box = self.by_bounds(ones, EXTREME * ones)
        return self.row(box, [size - 1 if side > 0 else 0 for size in self.spec.sizes])

    def by_bounds(
        self, bounded: Float[np.ndarray, " A"], unbounded: Float[np.ndarray, " A"]
    ) -> Float[np.ndarray, " A"]:
        """``bounded`` in dimensions whose bounds [-1, 1] is rescaled to, ``unbounded`` in the others."""
        return np.where(self._scaled, bounded, unbounded).astype(np.float32)


def _copied(obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in obs.items()}


_INSIDE = re.compile(rf" \(line \d+ of {re.escape(str(Path(__file__).parents[1]))}[^)]*\)")


def without_poise_lines(text: str) -> str:
    """A message without references to lines of poise: they say nothing about the environment."""
    return _INSIDE.sub("", text)


def fault_in_words(fault: EnvFault, play: Play) -> str:
    """The message of a fault; for a ``TaskAdapter`` that of the task's own fault, with seed and step."""
    inner = fault.__cause__
    if not (play.kind == "task" and isinstance(inner, EnvFault)):
        return without_poise_lines(str(fault))
    seed, step = play.current
    place = f"step {step}" if step else "at its reset"
    return f"{without_poise_lines(str(inner))}; episode seed {seed}, {place}"
