"""The score of an agent: greedy returns on a fixed list of episodes that training never saw."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from poise import envs
from poise.acting import ActionScale, Actor, quiet
from poise.envs import VectorEnv
from poise.intervals import mean_interval
from poise.seeds import Stream, episode_seed
from poise.spec import Spec
from poise.threads import one_blas_thread

LONGEST = 10_000  # steps of an episode where the environment sets no limit


@dataclass(frozen=True)
class Evaluation:
    """Raw returns and lengths (steps) of the episodes, in the order of the list."""

    episodic_return: Float[np.ndarray, " episodes"]
    length: Int[np.ndarray, " episodes"]
    num_cut: int = 0  # episodes that did not end by themselves within LONGEST steps

    @property
    def mean(self) -> float:
        return float(np.mean(self.episodic_return))

    @property
    def std(self) -> float:
        """Sample deviation between episodes; 0 of a single one."""
        return float(np.std(self.episodic_return, ddof=1)) if len(self.length) > 1 else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the mean (``poise.intervals``); infinite for a single episode."""
        _, low, high = mean_interval(self.episodic_return)
        return float(low), float(high)

    def summary(self) -> dict[str, float | int | None]:
        """The keys of ``summary.json``; None for a bound that is infinite."""
        low, high = (bound if math.isfinite(bound) else None for bound in self.interval)
        return {
            "mean": self.mean,
            "std": self.std,
            "low": low,
            "high": high,
            "episodes": len(self.length),
            "cut": self.num_cut,
        }


def evaluation_lanes(backend: str, episodes: int) -> int:
    """How many environments to evaluate with: cheap simulations all at once, others sixteen."""
    return min(episodes, 16 if backend.startswith("gymnasium") else 128)


def evaluate_agent(
    found: envs.Resolved,
    spec: Spec,
    actor: Actor,
    scale: ActionScale,
    *,
    seed: int,
    episodes: int,
) -> Evaluation:
    """Makes environments and evaluates on them.

    Raises:
        EnvError: they cannot be made, or do not have the shapes of ``spec``.
    """
    world = envs.make(found.id, evaluation_lanes(found.backend, episodes), found.backend)
    try:
        for name in ("obs_shape", "action_shape", "num_choices"):
            got, wanted = getattr(world.spec, name), getattr(spec, name)
            if got != wanted:
                raise envs.EnvError(f"{found.id} has {name} {got}, the agent was trained with {wanted}")
        return evaluate(world, actor, scale, seed=seed, episodes=episodes)
    finally:
        world.close()


@one_blas_thread()
def evaluate(
    env: VectorEnv,
    actor: Actor,
    scale: ActionScale,
    *,
    seed: int,
    episodes: int,
    stream: Stream = Stream.EVALUATION,
) -> Evaluation:
    """Plays ``episodes`` episodes greedily, each to its end, whatever the number of environments.

    Episode i always begins from the same seed, so short episodes are not counted more often than
    long ones and the score does not depend on who finishes first. Only where the environment has
    no time limit, an episode is cut off after ``LONGEST`` steps, and counted in ``num_cut``. ``stream``:
    what the score is for, and so which episodes it is of.
    """
    longest = LONGEST if env.spec.time_limit is None else env.spec.time_limit
    seeds = [episode_seed(seed, stream, 0, i) for i in range(episodes)]
    lanes = env.num_envs
    playing = np.arange(lanes)  # the episode each environment plays; beyond the list it only idles
    waiting, num_cut = lanes, 0
    total, length = np.zeros(lanes), np.zeros(lanes, np.int64)
    returns, lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
    obs = env.reset(np.ones(lanes, bool), [seeds[i % episodes] for i in playing])
    while (playing < episodes).any():
        with quiet():
            action = scale(actor.act(obs))
        obs, reward, terminated, truncated = env.step(action)
        total += reward
        length += 1
        done = terminated | truncated | (length >= longest)
        if not done.any():
            continue
        num_cut += int((done & ~terminated & ~truncated & (playing < episodes)).sum())
        for lane in np.flatnonzero(done):
            if playing[lane] < episodes:
                returns[playing[lane]], lengths[playing[lane]] = total[lane], length[lane]
            playing[lane], waiting = waiting, waiting + 1
        total[done] = 0
        length[done] = 0
        obs = env.reset(done, [seeds[i % episodes] for i in playing[done]])
    return Evaluation(returns, lengths, num_cut)
