"""How long a training will take, from what was played: collecting, learning and the score."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from poise import defaults, envs
from poise.agents.evaluation import LONGEST
from poise.config import PPO, Value
from poise.health.probing import Play
from poise.runs.budget import make_budget
from poise.runs.options import Options
from poise.system.cores import num_cores

TRAINING = 100_000  # steps of the training whose time is foretold
RIVALS = 4  # agents of which the best is chosen
SCORED = 100 + RIVALS * 32 + 100  # episodes: of the last agent, of the rivals, of the best agent
SLOW = 500e-6  # seconds of a step from which on a process for each environment pays
OVERHEAD = 25e-6  # seconds of a step for acting, learning and logging, on two cores (docs/performance.md)
ACTING = 10e-6  # of that, acting alone
START = 3.0  # seconds for import and compilation from the cache
BATCH, BATCH_STEPS = 16, 64  # environments and steps by which a backend of its own is timed
FEW = 4  # environments that act at once
NARROW = 256  # observed numbers up to which OVERHEAD holds


def costs(play: Play, found: envs.Resolved) -> dict[str, Any]:
    """What a step takes, and what a training would; all of it measured on this machine, in seconds."""
    step, reset = float(np.median(play.steps)), float(np.median(play.resets))
    ended = [played.length for played in play.episodes if played.ended]
    limits = [played.length for played in play.episodes if played.truncated]
    longest = play.spec.time_limit or max(limits, default=LONGEST)
    length = float(np.mean(ended)) if ended else float(longest)
    told: dict[str, Any] = {
        "step_us": 1e6 * step,
        "reset_us": 1e6 * reset,
        "played_episodes": len(play.episodes),
        "played_steps": sum(played.length for played in play.episodes),
    }
    if found.backend == "native":  # compiled with the networks: a step alone says nothing
        return told
    each = step + reset / length if found.backend == "gymnasium" else _batched(found, play)
    rest = OVERHEAD + wide_layer(play.spec.obs_size)
    told["training_seconds"] = START + TRAINING * (each + rest)
    cores = num_cores()
    if found.backend == "gymnasium" and each > SLOW and cores > 1:
        told["training_seconds_async"] = START + TRAINING * (each / cores + rest)
    budget = make_budget(
        play.spec,
        found.backend,
        TRAINING,
        Options(),
        rivals=RIVALS,
        trained_longest=int(max(ended, default=0)),
        trained_seconds=told["training_seconds"],
    )
    for name, steps in (("score_seconds", length), ("score_seconds_most", longest)):
        seconds = min(SCORED * steps, budget.total_steps()) * (each + ACTING)
        if ended or name == "score_seconds_most":
            told[name] = seconds if budget.seconds is None else min(seconds, budget.seconds)
    return told


def _batched(found: envs.Resolved, play: Play) -> float:
    """Seconds that a step of one environment takes where a backend steps many at once."""
    world = envs.make(found.id, BATCH, found.backend)
    try:
        world.reset(np.ones(BATCH, bool), range(BATCH))
        spec = world.spec
        still = (
            np.zeros(BATCH, np.int64) if spec.discrete else np.zeros((BATCH, spec.action_size), np.float32)
        )
        world.step(still)  # which may compile
        begun = time.perf_counter()
        for _ in range(BATCH_STEPS):
            done = world.step(still)
            over = np.asarray(done.terminated) | np.asarray(done.truncated)
            if over.any():
                world.reset(over, [0] * int(over.sum()))
        return (time.perf_counter() - begun) / (BATCH * BATCH_STEPS)
    finally:
        world.close()


def wide_layer(obs_size: int) -> float:
    """Seconds that acting in a step, and learning from it, take more where observations are wide.

    Measured: the products of the first layer and its update, for both networks in all epochs.
    """
    if obs_size <= NARROW:
        return 0.0
    rows, units = defaults.MINIBATCH, Value().hidden[0]
    obs = np.ones((rows, obs_size), np.float32)
    error = np.ones((rows, units), np.float32)
    weight = np.ones((obs_size, units), np.float32)
    moments = np.zeros_like(weight), np.zeros_like(weight)

    def learn() -> None:
        np.dot(obs, weight)
        gradient = obs.T @ error
        for moment in moments:  # as Adam passes over them
            moment *= 0.9
            moment += 0.1 * gradient
        weight.__isub__(moments[0] / (np.sqrt(moments[1]) + 1e-8))

    few = obs[:FEW]
    return 2 * PPO().num_epochs * _fastest(learn) / rows + _fastest(lambda: few @ weight) / FEW


def _fastest(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def in_words(facts: dict[str, Any]) -> list[str]:
    """The lines on time."""
    if "training_seconds" not in facts:
        return []
    line = f"  {TRAINING:,} steps of training take about {span(facts['training_seconds'])}"
    if faster := facts.get("training_seconds_async"):
        line += f", about {span(faster)} with --backend gymnasium-async"
    score, most = facts.get("score_seconds"), facts["score_seconds_most"]
    second = f"  the score after it, up to {SCORED} episodes: "
    if score is None:
        return [line, second + f"up to {span(most)}, where none ends before {LONGEST:,} steps or its limit"]
    second += f"about {span(score)}"
    if most > 1.5 * score and most > 10:
        second += f", {span(most)} where all last as long as they may"
    return [line, second]


def span(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 120:
        return f"{seconds:,.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:,.0f} min"
    return f"{seconds / 3600:,.1f} h"
