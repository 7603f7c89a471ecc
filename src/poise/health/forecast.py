"""How long a training will take, estimated from the played episodes: collecting, learning and the score."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, Shaped

from poise import defaults, envs
from poise.agents.evaluation import LONGEST
from poise.algo.networks import ValueFunction
from poise.algo.normalize import Normalizer
from poise.config import PPO, Value
from poise.envs.packing import Obs, empty, map_arrays
from poise.health.probing import Play
from poise.runs.budget import make_budget
from poise.runs.options import Options
from poise.spec import IN_JAX, MASK, Spec
from poise.system.cores import num_cores
from poise.system.threads import start_jax
from poise.training.acting import Chooser

TRAINING = 100_000  # steps of the training whose time is estimated
RIVALS = 4  # agents of which the best is chosen
SCORED = 100 + RIVALS * 32 + 100  # episodes: of the last agent, of the rivals, of the best agent
SLOW = 500e-6  # seconds of a step from which on a process for each environment is faster
OVERHEAD = 25e-6  # seconds of a step for acting, learning and logging, on two cores (docs/performance.md)
ACTING = 10e-6  # of that, acting alone
START = 3.0  # seconds for import and compilation from the cache
BATCH, BATCH_STEPS = 16, 64  # environments and steps with which a backend that steps many at once is timed
FEW = 4  # environments that act at once
NARROW = 256  # observed numbers up to which OVERHEAD holds
FEW_IMAGES = 8  # of a minibatch with which learning from images is timed on a CPU


def costs(play: Play, resolved: envs.Resolved) -> dict[str, Any]:
    """The time of a step and of a reset, measured here, and of a training and its score, estimated from them.

    Keys end in their unit: ``_us`` microseconds, ``_seconds``. Seconds that are not known are missing.
    """
    step, reset = float(np.median(play.step_seconds)), float(np.median(play.reset_seconds))
    ended = [episode.length for episode in play.episodes if episode.ended]
    limits = [episode.length for episode in play.episodes if episode.truncated]
    longest = play.spec.time_limit or max(limits, default=LONGEST)
    length = float(np.mean(ended)) if ended else float(longest)
    facts: dict[str, Any] = {
        "step_us": 1e6 * step,
        "reset_us": 1e6 * reset,
        "played_episodes": len(play.episodes),
        "played_steps": sum(episode.length for episode in play.episodes),
    }
    if resolved.backend in IN_JAX:  # compiled with the networks: the time of a step alone says nothing
        return facts
    per_step = step + reset / length if resolved.backend == "gymnasium" else _time_batch(resolved)
    seeing = see_images(play.spec)  # a gradient; acting and preparing a rollout cost about as much as two
    rest = OVERHEAD + wide_layer(play.spec.obs_size) + (2 * PPO().num_epochs + 2) * seeing
    facts["training_seconds"] = START + TRAINING * (per_step + rest)
    cores = num_cores()
    if resolved.backend == "gymnasium" and per_step > SLOW and cores > 1:
        facts["training_seconds_async"] = START + TRAINING * (per_step / cores + rest)
    budget = make_budget(
        play.spec,
        resolved.backend,
        TRAINING,
        Options(),
        rivals=RIVALS,
        trained_longest=int(max(ended, default=0)),
        trained_seconds=facts["training_seconds"],
    )
    for name, steps in (("score_seconds", length), ("score_seconds_most", longest)):
        seconds = min(SCORED * steps, budget.total_steps()) * (per_step + ACTING + seeing)
        if ended or name == "score_seconds_most":
            facts[name] = seconds if budget.seconds is None else min(seconds, budget.seconds)
    return facts


def _time_batch(resolved: envs.Resolved) -> float:
    """Seconds for a step of one environment, on a backend that steps many at once."""
    world = envs.make(resolved.id, BATCH, resolved.backend)
    try:
        obs = world.reset(np.ones(BATCH, bool), range(BATCH))
        obs = world.step(_first_actions(world.spec, obs)).next_obs  # not timed: it may compile
        start = time.perf_counter()
        for _ in range(BATCH_STEPS):
            result = world.step(_first_actions(world.spec, obs))
            obs = result.next_obs
            over = np.asarray(result.terminated) | np.asarray(result.truncated)
            if over.any():
                obs = world.reset(over, [0] * int(over.sum()))
        return (time.perf_counter() - start) / (BATCH * BATCH_STEPS)
    finally:
        world.close()


def _first_actions(spec: Spec, obs: Obs) -> Shaped[np.ndarray, "N ..."]:
    """Zeros, and of each choice the first value that is allowed."""
    actions = spec.zero_actions(BATCH)
    if spec.masked and isinstance(obs, dict):
        choose = Chooser(spec.sizes, is_index=spec.action_row == ())
        values = choose(np.zeros((BATCH, spec.num_logits), np.float32), mask=obs[MASK])
        actions.reshape(BATCH, -1)[:, spec.box_size :] = values.reshape(BATCH, -1)
    return actions


def see_images(spec: Spec) -> float:
    """Seconds for the gradient of one network for one observation with images; 0 without images.

    Measured, on what JAX computes with here, in a compiled loop: on a CPU convolutions are slower in a loop.
    """
    if not spec.images:
        return 0.0
    start_jax()
    rows = FEW_IMAGES if jax.default_backend() == "cpu" else defaults.MINIBATCH
    normalizer, obs = Normalizer.empty(spec), empty(spec, 2 * rows)
    minibatches = map_arrays(lambda x: x.reshape(2, rows, *x.shape[1:]), obs)
    # the weights do not matter, and orthogonal ones take long
    shapes = eqx.filter_eval_shape(ValueFunction, spec, Value(), key=jax.random.key(0))
    network = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def loss(network: ValueFunction, obs: PyTree[Array]) -> Array:
        scale = partial(normalizer.scale, enabled=True, bound=None)
        return jnp.mean(jax.vmap(lambda row: network(scale(row)))(obs))

    def step(network: ValueFunction, obs: PyTree[Array]) -> tuple[ValueFunction, None]:
        return jax.tree.map(jnp.add, network, jax.grad(loss)(network, obs)), None

    learn = jax.jit(lambda network, obs: jax.lax.scan(step, network, obs)[0])
    jax.block_until_ready(learn(network, minibatches))  # not timed: it compiles
    return _fastest(lambda: jax.block_until_ready(learn(network, minibatches))) / (2 * rows)


def wide_layer(obs_size: int) -> float:
    """Extra seconds for each step, for acting and learning, if observations are wide; otherwise 0.

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
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def in_words(facts: dict[str, Any]) -> list[str]:
    """The lines about time."""
    if "training_seconds" not in facts:
        return []
    line = f"  {TRAINING:,} steps of training take about {span(facts['training_seconds'])}"
    if faster := facts.get("training_seconds_async"):
        line += f", about {span(faster)} with --backend gymnasium-async"
    score, most = facts.get("score_seconds"), facts["score_seconds_most"]
    second = f"  the score after it, up to {SCORED} episodes: "
    if score is None:
        return [line, second + f"up to {span(most)}, if none ends before {LONGEST:,} steps or its limit"]
    second += f"about {span(score)}"
    if most > 1.5 * score and most > 10:
        second += f", {span(most)} if all are as long as possible"
    return [line, second]


def span(seconds: float) -> str:
    """Seconds as text: s, min or h."""
    if seconds < 120:
        return f"{seconds:,.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:,.0f} min"
    return f"{seconds / 3600:,.1f} h"
