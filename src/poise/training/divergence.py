"""Where an iteration of learning went wrong: found by repeating it, one minibatch at a time."""

from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from poise.algo.losses import policy_loss, value_loss
from poise.algo.update import (
    Ready,
    TrainState,
    apply_gradient,
    blocks,
    learning_rate,
    make_optimizer,
    minibatches,
    recomputed,
    std_rate,
)
from poise.config import PPO, Config
from poise.types import Batch


@partial(jax.jit, static_argnames=("kind", "config"))
def _one(
    params: Any,
    opt_state: Any,
    batch: Batch,
    step_size: Float[Array, ""],
    std_rate: Float[Array, ""],
    *,
    kind: str,
    config: PPO,
) -> tuple[Any, Any, Any, Array, Array]:
    """Parameters and optimizer after one minibatch, and what led there: gradient, loss, approximate KL."""
    if kind == "policy":
        (loss, metrics), gradient = jax.value_and_grad(policy_loss, has_aux=True)(params, batch, config)
        kl = metrics.kl
    else:
        loss, gradient = jax.value_and_grad(value_loss)(params, batch)
        kl = jax.numpy.zeros(())
    after = apply_gradient(make_optimizer(config), params, opt_state, gradient, step_size, std_rate)
    return *after, gradient, loss, kl


def first_bad(state: TrainState, ready: Ready, config: Config) -> str | None:
    """The first loss, gradient or parameter that is infinite or NaN, with its epoch and minibatch.

    None where the repetition, which rounds otherwise, meets none.
    """
    learner, ppo, iteration = state.learner, config.ppo, int(state.iteration)
    batch, transitions = jax.device_get((ready.prepared.batch, ready.prepared.transitions))
    now = jax.device_get(
        {"policy": (learner.policy, learner.policy_opt), "value": (learner.value, learner.value_opt)}
    )
    rates = {
        name: np.float32(learning_rate(start, iteration, config))
        for name, start in (("policy", ppo.policy_learning_rate), ("value", ppo.value_learning_rate))
    }
    stopped = False
    for block in blocks(len(ready.rows), ppo):
        if block.start and transitions is not None:
            batch = jax.device_get(recomputed(now["value"][0], batch, transitions, ppo=ppo))
        for kind, rate in rates.items():
            params, opt_state = now[kind]
            for (epoch, i), rows in _each(ready.rows[block], block.start):
                if kind == "policy" and stopped:
                    break
                part = jax.tree.map(lambda x: x[0], minibatches(batch, jax.numpy.asarray(rows[None])))
                params, opt_state, gradient, loss, kl = _one(
                    params, opt_state, part, rate, std_rate(config), kind=kind, config=ppo
                )
                parts = {"loss": loss, "gradient": gradient, "parameters after it": params}
                for name, tree in parts.items():
                    if (odd := _odd(tree)) is not None:
                        return f"first the {kind}'s {name} ({odd}) in epoch {epoch}, minibatch {i}"
                stopped |= kind == "policy" and ppo.target_kl is not None and bool(kl > ppo.target_kl)
            now[kind] = params, opt_state
    return None


def _each(rows: np.ndarray, before: int) -> list[tuple[tuple[int, int], np.ndarray]]:
    """The rows of each minibatch with its epoch (``before`` came earlier) and number, counted from 1."""
    return [((before + e + 1, i + 1), row) for e, epoch in enumerate(rows) for i, row in enumerate(epoch)]


def _odd(tree: Any) -> str | None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        values = np.asarray(leaf)
        if not np.isfinite(values).all():
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            value = values[~np.isfinite(values)].flat[0]
            return f"{name} is {value}" if name else f"{value}"
    return None
