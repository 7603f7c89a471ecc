"""The score of an agent: greedy returns on a fixed list of episodes that training never saw."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from poise import envs
from poise.agents.intervals import mean_interval
from poise.envs import VectorEnv
from poise.envs.packing import Obs
from poise.seeds import Stream, episode_seed
from poise.spec import IN_JAX, Spec
from poise.system.threads import one_blas_thread
from poise.training.acting import Acting, ActionScale, empty_carry, quiet

LONGEST = 10_000  # steps of an episode where the environment sets no limit


@dataclass(frozen=True)
class Evaluation:
    """Raw returns and lengths (steps) of the episodes, in the order of the list."""

    episodic_return: Float[np.ndarray, " episodes"]
    length: Int[np.ndarray, " episodes"]
    num_cut: int = 0  # episodes that did not end within ``longest`` steps and were cut off
    longest: int = LONGEST
    stopped: Literal["steps", "seconds", "interrupt"] | None = None  # why there are fewer than requested

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

    def summary(self) -> dict[str, float | int | str | None]:
        """The keys of ``summary.json``; None for a bound that is infinite."""
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
        }


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


def evaluate_agent(
    task: envs.Resolved,
    spec: Spec,
    actor: Acting,
    scale: ActionScale,
    *,
    seed: int,
    episodes: int,
    limits: Limits = UNLIMITED,
) -> Evaluation:
    """Makes environments and evaluates on them.

    Raises:
        EnvError: they cannot be made, or do not have the shapes of ``spec``.
    """
    lanes = evaluation_lanes(task.backend, episodes, limits)
    world = envs.make(task.id, lanes, task.backend, reading=spec)
    try:
        if problem := spec.problem_with(world.spec):
            raise envs.EnvError(f"{task.id} has {problem}")
        return evaluate(world, actor, scale, seed=seed, episodes=episodes, limits=limits)
    finally:
        world.close()


class _Tally:
    """The episodes of a list that have ended, and how many of the list are to be played."""

    def __init__(self, episodes: int, longest: int, limits: Limits):
        self.returns, self.lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
        self._ended, self._cut = np.zeros(episodes, bool), np.zeros(episodes, bool)
        self._longest, self._limits, self._start = longest, limits, time.monotonic()
        self.wanted = episodes
        self._stopped: Literal["steps", "seconds"] | None = None

    @property
    def num_ended(self) -> int:
        return int(self._ended[: self.wanted].sum())

    def end(self, episode: int, episodic_return: float, length: int, *, cut: bool) -> None:
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

    def result(self, *, interrupted: bool = False) -> Evaluation:
        count = min(self.wanted, self._in_a_row())
        stopped = "interrupt" if interrupted and count < self.wanted else self._stopped
        cut = int(self._cut[:count].sum())
        return Evaluation(self.returns[:count], self.lengths[:count], cut, self._longest, stopped)


@one_blas_thread()
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
    """Plays ``episodes`` episodes greedily, each to its end, whatever the number of environments.

    Episode i always begins from the same seed, so short episodes are not counted more often than
    long ones and the score does not depend on who finishes first. Only where the environment has
    no time limit, an episode is cut off after ``limits.longest`` steps, and counted in ``num_cut``.
    ``stream``: what the score is for, and so which episodes it is of. ``limits`` may end the list early.
    """
    longest = limits.longest or (LONGEST if env.spec.time_limit is None else env.spec.time_limit)
    tally = _Tally(episodes, longest, limits)
    try:
        _play(
            env,
            Player(actor, scale, env.num_envs),
            tally,
            [episode_seed(seed, stream, 0, i) for i in range(episodes)],
            longest,
            limits.watch,
        )
    except KeyboardInterrupt:
        if limits.keep is not None:
            limits.keep(tally.result(interrupted=True))
        raise
    return tally.result()


def _play(
    env: VectorEnv,
    player: "Player",
    tally: _Tally,
    seeds: list[int],
    longest: int,
    watch: Callable[[int, int, int], None] | None,
) -> None:
    """Plays the episodes of the list until the tally has enough."""
    episodes, lanes = len(seeds), env.num_envs
    playing = np.arange(lanes)  # the episode each environment plays; beyond the list it only idles
    waiting, past = lanes, 0
    total, length = np.zeros(lanes), np.zeros(lanes, np.int64)
    obs = env.reset(np.ones(lanes, bool), [seeds[i % episodes] for i in playing])
    while (playing < tally.wanted).any():
        with quiet():
            action = player.act(obs)
        obs, reward, terminated, truncated = env.step(action)
        total += reward
        length += 1
        if watch is not None:
            watch(tally.num_ended, tally.wanted, past + int(length[playing < tally.wanted].sum()))
        done = terminated | truncated | (length >= longest)
        if not done.any():
            continue
        for lane in map(int, np.flatnonzero(done)):
            if playing[lane] < episodes:
                cut = not (terminated[lane] or truncated[lane])
                tally.end(int(playing[lane]), float(total[lane]), int(length[lane]), cut=cut)
                past += int(length[lane])
        tally.settle(min(waiting, episodes))
        for lane in np.flatnonzero(done):
            playing[lane], waiting = waiting, waiting + 1
        total[done] = 0
        length[done] = 0
        obs = env.reset(done, [seeds[i % episodes] for i in playing[done]])
        player.forget(done)


class Player:
    """The greedy policy, in the environment's units, with what its memory holds for each environment."""

    def __init__(self, actor: Acting, scale: ActionScale, num_envs: int):
        self._actor, self._scale, self._carry = actor, scale, empty_carry(actor, num_envs)

    def act(self, obs: Obs) -> Shaped[np.ndarray, "N ..."]:
        return self._scale(self._actor.act(obs, carry=self._carry))

    def forget(self, mask: Bool[np.ndarray, " N"]) -> None:
        """At the start of an episode in the environments of ``mask``."""
        if self._carry is not None:
            self._carry[mask] = 0
