"""The score of an agent: returns on a fixed list of episodes that training never saw."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from poise import envs
from poise.agents.intervals import mean_interval, share_interval
from poise.envs import VectorEnv
from poise.envs.adjusting import Settings, adjust_all
from poise.envs.info import MOST, is_success, success
from poise.envs.packing import Obs, map_arrays, row_of, unpack_action
from poise.envs.vector import EnvStep, Informed, Reporting
from poise.seeds import Stream, episode_seed
from poise.spec import IN_JAX, Spec
from poise.system.threads import one_blas_thread
from poise.training.acting import Acting, ActionScale, empty_carry, quiet

LONGEST = 10_000  # steps of an episode where the environment sets no limit


@dataclass(frozen=True)
class Evaluation:
    """Raw returns and lengths (steps) of the episodes, in the order of the list.

    ``info``: the numbers of the environment's infos by name, one for each episode: of rewards, costs and
    penalties the sum, of others the last value. NaN where an episode did not report one.
    """

    episodic_return: Float[np.ndarray, " episodes"]
    length: Int[np.ndarray, " episodes"]
    num_cut: int = 0  # episodes that did not end within ``longest`` steps and were cut off
    longest: int = LONGEST
    stopped: Literal["steps", "seconds", "interrupt"] | None = None  # why there are fewer than requested
    sampled: bool = False  # whether actions were sampled; otherwise they are greedy
    info: Mapping[str, Float[np.ndarray, " episodes"]] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        return float(np.mean(self.episodic_return))

    @property
    def std(self) -> float:
        """Sample standard deviation between episodes; 0 for a single one."""
        return float(np.std(self.episodic_return, ddof=1)) if len(self.length) > 1 else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the mean (``poise.agents.intervals``); infinite for a single episode."""
        _, low, high = mean_interval(self.episodic_return)
        return float(low), float(high)

    @property
    def successes(self) -> Float[np.ndarray, " reporting"]:
        """``is_success``, or else ``success``, of each episode that reported it."""
        values = success(self.info)
        return np.empty(0) if values is None else values[~np.isnan(values)]

    @property
    def success_rate(self) -> float | None:
        """The mean of ``successes``; None if there are none."""
        return float(np.mean(self.successes)) if len(self.successes) else None

    @property
    def success_interval(self) -> tuple[float, float] | None:
        """95% interval of the success rate; None without one, or if some value is neither 0 nor 1."""
        values = self.successes
        if not len(values) or not np.isin(values, (0, 1)).all():
            return None
        return share_interval(float(values.sum()), len(values))

    def _reported(self) -> dict[str, Any]:
        """What the infos add to ``summary``."""
        low, high = self.success_interval or (None, None)
        rate = {"success_rate": self.success_rate, "success_low": low, "success_high": high}
        known = {name: x[~np.isnan(x)] for name, x in self.info.items() if not is_success(name)}
        means = {name: float(np.mean(x)) for name, x in known.items() if len(x)}
        return (rate if len(self.successes) else {}) | ({"info": means} if means else {})

    def summary(self) -> dict[str, Any]:
        """The keys of ``summary.json``; None for a bound that is infinite.

        ``success_rate`` with its interval, and ``info`` with means by name, are there if infos have them.
        """
        low, high = (bound if math.isfinite(bound) else None for bound in self.interval)
        return {
            "mean": self.mean,
            "std": self.std,
            "low": low,
            "high": high,
            "episodes": len(self.length),
            "cut": self.num_cut,
            "longest": self.longest,
            "stopped": self.stopped,
            "sampled": self.sampled,
            **self._reported(),
        }


@dataclass(frozen=True)
class PlayedStep:
    """One step of an episode that an agent plays.

    Attributes:
        episode: its place in the list of episodes, from 0.
        lane: number of the environment that plays it.
        step: of the episode, from 0.
        obs, next_obs: before and after the step, as the policy reads them before it normalizes: one array of
            numbers, or a dictionary with ``numbers``, images and ``action_mask`` (``poise.Spec``).
            ``next_obs`` is where the action led, also at an episode's end.
        action: as the environment gets it.
        reward, terminated, truncated: as the environment returns them.
        info: of the environment, where it is an object; otherwise empty.
    """

    episode: int
    lane: int
    step: int
    obs: Any
    action: Any
    reward: float
    next_obs: Any
    terminated: bool
    truncated: bool
    info: Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """What an evaluation may cost, and the functions that it calls.

    Attributes:
        steps: an episode counts while those before it in the list have had fewer steps than this in all.
            None: all count. So which episodes count depends on their lengths alone, not on the number of
            environments or the speed of the machine.
        longest: steps after which an episode is cut off; None: the environment's time limit, or LONGEST.
        seconds: after these no further episode starts. Each that has started is played to its end and counts;
            otherwise short ones would count more often.
        watch: is called after every step with the episodes that have ended, their number in all, and the
            steps of these and of those under way.
        keep: is called with the evaluation so far if it is interrupted.
    """

    steps: int | None = None
    longest: int | None = None
    seconds: float | None = None
    watch: Callable[[int, int, int], None] | None = None
    keep: Callable[[Evaluation], None] | None = None


UNLIMITED = Limits()


def evaluation_lanes(backend: str, episodes: int, limits: Limits = UNLIMITED) -> int:
    """How many environments to evaluate with: up to 128 of a cheap simulation, up to 16 of others.

    Fewer if the step limit would be used up before each of them had ended an episode.
    """
    lanes = min(episodes, 128 if backend in ("mujoco", *IN_JAX) else 16)
    if limits.steps is None or limits.longest is None:
        return lanes
    return min(lanes, max(1, limits.steps // limits.longest))


@contextmanager
def opened(
    task: envs.Resolved,
    spec: Spec,
    episodes: int,
    limits: Limits = UNLIMITED,
    settings: Settings | None = None,
) -> Iterator[VectorEnv]:
    """Environments to evaluate on; they are closed at the end. ``settings``: of a curriculum.

    Raises:
        EnvError: they cannot be made, or do not have the shapes of ``spec`` or these settings.
    """
    lanes = evaluation_lanes(task.backend, episodes, limits)
    world = envs.make(task.id, lanes, task.backend, reading=spec)
    try:
        if problem := spec.problem_with(world.spec):
            raise envs.EnvError(f"{task.id} has {problem}")
        if settings:
            adjust_all([world], settings)
        yield world
    finally:
        world.close()


class _Tally:
    """The episodes of a list that have ended, and how many of the list are to be played."""

    def __init__(self, episodes: int, longest: int, limits: Limits):
        self.returns, self.lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
        self._infos: list[Mapping[str, float]] = [{}] * episodes
        self._ended, self._cut = np.zeros(episodes, bool), np.zeros(episodes, bool)
        self._longest, self._limits, self._start = longest, limits, time.monotonic()
        self.wanted = episodes
        self._stopped: Literal["steps", "seconds"] | None = None

    @property
    def num_ended(self) -> int:
        return int(self._ended[: self.wanted].sum())

    def end(
        self, episode: int, episodic_return: float, length: int, info: Mapping[str, float], *, cut: bool
    ) -> None:
        self._infos[episode] = info
        self.returns[episode], self.lengths[episode] = episodic_return, length
        self._ended[episode], self._cut[episode] = True, cut

    def settle(self, waiting: int) -> None:
        """Applies the limits to how many are to be played; ``waiting``: the first that has not started."""
        limits = self._limits
        late = limits.seconds is not None and time.monotonic() - self._start >= limits.seconds
        if late and waiting < self.wanted:
            self.wanted, self._stopped = waiting, "seconds"
        if limits.steps is not None:
            spent = np.cumsum(self.lengths[: self._in_a_row()])
            enough = int(np.searchsorted(spent, limits.steps)) + 1
            if enough < self.wanted and enough <= len(spent):
                self.wanted, self._stopped = enough, "steps"

    def _in_a_row(self) -> int:
        """How many episodes from the first of the list on have ended, without a gap."""
        return len(self._ended) if self._ended.all() else int(np.argmin(self._ended))

    def result(self, *, sampled: bool, interrupted: bool = False) -> Evaluation:
        count = min(self.wanted, self._in_a_row())
        stopped = "interrupt" if interrupted and count < self.wanted else self._stopped
        cut, infos = int(self._cut[:count].sum()), self._infos[:count]
        names = list(dict.fromkeys(name for info in infos for name in info))[:MOST]
        columns = {name: np.array([info.get(name, math.nan) for info in infos]) for name in names}
        facts = self.returns[:count], self.lengths[:count], cut
        return Evaluation(*facts, self._longest, stopped, sampled, columns)


def evaluate(
    env: VectorEnv,
    actor: Acting,
    scale: ActionScale,
    *,
    seed: int,
    episodes: int,
    stream: Stream = Stream.EVALUATION,
    limits: Limits = UNLIMITED,
) -> Evaluation:
    """``score`` of the greedy policy. ``stream``: what the score is for, and so which episodes it is of."""
    seeds = [episode_seed(seed, stream, 0, i) for i in range(episodes)]
    return score(env, Player(actor, scale, env.num_envs), seeds, limits=limits)


@one_blas_thread()
def score(
    env: VectorEnv,
    player: "Player",
    seeds: Sequence[int],
    *,
    limits: Limits = UNLIMITED,
    on_step: Callable[[PlayedStep], None] | None = None,
) -> Evaluation:
    """Plays an episode from each of the seeds to its end, whatever the number of environments.

    Episode i always begins from the same seed, so short episodes are not counted more often than
    long ones and the score does not depend on who finishes first. Only where the environment has
    no time limit, an episode is cut off after ``limits.longest`` steps, and counted in ``num_cut``.
    ``limits`` may end the list early. ``on_step`` is called with each step.
    """
    longest = limits.longest or (LONGEST if env.spec.time_limit is None else env.spec.time_limit)
    tally = _Tally(len(seeds), longest, limits)
    try:
        _play(env, player, tally, _Lanes(seeds, env.num_envs), longest, limits.watch, on_step)
    except KeyboardInterrupt:
        if limits.keep is not None:
            limits.keep(tally.result(sampled=player.samples, interrupted=True))
        raise
    return tally.result(sampled=player.samples)


class _Lanes:
    """Which episode each environment plays, and its return and length so far.

    An environment that is done takes the next of the list; beyond the list it only idles.
    """

    def __init__(self, seeds: Sequence[int], num_envs: int):
        self._seeds, self._waiting, self._past = seeds, num_envs, 0
        self.playing = np.arange(num_envs)
        self.total, self.length = np.zeros(num_envs), np.zeros(num_envs, np.int64)

    def begin(self, env: VectorEnv, player: "Player", mask: Bool[np.ndarray, " N"]) -> Obs:
        """Starts the episodes of the environments in ``mask``; the observations of all."""
        seeds = [self._seeds[i % len(self._seeds)] for i in self.playing[mask]]
        self.total[mask] = 0
        self.length[mask] = 0
        player.begin(mask, seeds)
        return env.reset(mask, seeds)

    def end(
        self, env: VectorEnv, done: Bool[np.ndarray, " N"], cut: Bool[np.ndarray, " N"], tally: _Tally
    ) -> None:
        """Counts the episodes that are done. ``cut``: which of them did not end by themselves."""
        for lane in map(int, np.flatnonzero(done)):
            if self.playing[lane] < len(self._seeds):
                length = int(self.length[lane])
                info = env.episode_info(lane) if isinstance(env, Reporting) else {}
                result = int(self.playing[lane]), float(self.total[lane]), length, info
                tally.end(*result, cut=bool(cut[lane]))
                self._past += length
        tally.settle(min(self._waiting, len(self._seeds)))
        for lane in np.flatnonzero(done):
            self.playing[lane], self._waiting = self._waiting, self._waiting + 1

    def num_steps(self, wanted: int) -> int:
        """Of the episodes that have ended and of those under way."""
        return self._past + int(self.length[self.playing < wanted].sum())


def _play(
    env: VectorEnv,
    player: "Player",
    tally: _Tally,
    lanes: _Lanes,
    longest: int,
    watch: Callable[[int, int, int], None] | None,
    on_step: Callable[[PlayedStep], None] | None,
) -> None:
    """Plays the episodes of the list until the tally has enough."""
    obs = lanes.begin(env, player, np.ones(env.num_envs, bool))
    while (lanes.playing < tally.wanted).any():
        with quiet():
            action = player.act(obs)
        before = obs if on_step is None else map_arrays(np.array, obs)  # the environment may reuse its arrays
        step = env.step(action)
        if on_step is not None:
            _tell(on_step, env, lanes, before, action, step, lanes.playing < tally.wanted)
        lanes.total += step.reward
        lanes.length += 1
        if watch is not None:
            watch(tally.num_ended, tally.wanted, lanes.num_steps(tally.wanted))
        obs, over = step.next_obs, step.terminated | step.truncated
        done = over | (lanes.length >= longest)
        if done.any():
            lanes.end(env, done, done & ~over, tally)
            obs = lanes.begin(env, player, done)


def _tell(
    on_step: Callable[[PlayedStep], None],
    env: VectorEnv,
    lanes: _Lanes,
    obs: Obs,
    action: Shaped[np.ndarray, "N ..."],
    step: EnvStep,
    counts: Bool[np.ndarray, " N"],
) -> None:
    """Calls ``on_step`` for each environment that plays an episode of the list (``counts``)."""
    own = unpack_action(env.spec, action)
    for lane in map(int, np.flatnonzero(counts)):
        on_step(
            PlayedStep(
                episode=int(lanes.playing[lane]),
                lane=lane,
                step=int(lanes.length[lane]),
                obs=_one(obs, lane),
                action=row_of(own, lane),
                reward=float(step.reward[lane]),
                next_obs=_one(step.next_obs, lane),
                terminated=bool(step.terminated[lane]),
                truncated=bool(step.truncated[lane]),
                info=env.info(lane) if isinstance(env, Informed) else {},
            )
        )


def _one(obs: Obs, lane: int) -> Obs:
    """A copy of the observation of one environment."""
    return map_arrays(lambda array: np.array(array[lane]), obs)


class Noise:
    """What makes the actions of N environments samples: each episode draws its own, by its seed.

    So the samples do not depend on the number of environments.
    """

    def __init__(self, spec: Spec, num_envs: int):
        self._spec, self._rngs = spec, [np.random.default_rng(0)] * num_envs

    def begin(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> None:
        """At the start of episodes with these seeds in the environments of ``mask``."""
        for lane, seed in zip(np.flatnonzero(mask), seeds, strict=True):
            self._rngs[lane] = np.random.default_rng((seed, Stream.SAMPLING))

    def draw(self) -> Float[np.ndarray, "N noise"]:
        return np.stack([self._spec.draw_noise(rng) for rng in self._rngs])


class Player:
    """A policy in the environment's units, with what its memory holds for each environment.

    It is greedy without ``noise``.
    """

    def __init__(self, actor: Acting, scale: ActionScale, num_envs: int, noise: Noise | None = None):
        self._actor, self._scale, self._carry = actor, scale, empty_carry(actor, num_envs)
        self._noise = noise

    @property
    def samples(self) -> bool:
        return self._noise is not None

    def act(self, obs: Obs) -> Shaped[np.ndarray, "N ..."]:
        noise = None if self._noise is None else self._noise.draw()
        return self._scale(self._actor.act(obs, noise, self._carry))

    def begin(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> None:
        """At the start of episodes with these seeds in the environments of ``mask``."""
        if self._carry is not None:
            self._carry[mask] = 0
        if self._noise is not None:
            self._noise.begin(mask, seeds)
