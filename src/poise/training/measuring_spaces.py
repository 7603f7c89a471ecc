"""Measurements of what only some tasks have: parts of an action, masks and memories.

Nothing here takes part in learning. All is measured on the rollout, with the networks that acted.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from poise.algo.distributions import Distribution
from poise.algo.memory import play_on
from poise.algo.prepare import Prepared
from poise.algo.state import Learner, TrainState
from poise.spec import MASK, Spec
from poise.training.measuring import box_of, logits_of
from poise.types import Rollout

ROWS = 256  # of a rollout, on which a memory is measured: about 1% of the time that learning takes


def measure_spaces(
    spec: Spec, before: TrainState, rollout: Rollout, prepared: Prepared
) -> dict[str, float | None]:
    """All of them for one rollout; ``before``: the state that acted. Empty for most tasks."""
    found: dict[str, float | None] = {**measure_parts(prepared.distribution, spec)}
    if spec.masked:
        found |= measure_masks(np.asarray(rollout.obs[MASK]).reshape(-1, spec.num_logits), spec.sizes)
    num_envs, first = rollout.reward.shape[1], int(before.iteration) == 0
    return found | measure_memory(before.learner, prepared, num_envs=num_envs, first=first)


def measure_parts(distribution: Distribution, spec: Spec) -> dict[str, float]:
    """The mean entropy of each piece of an action; the mean deviation of each box, if there are several.

    ``distribution``: of all rows. Empty if the action has one piece only.
    """
    if len(spec.pieces) < 2:
        return {}
    box, choices = box_of(distribution), logits_of(distribution)
    entropies, deviations = {}, {}
    for piece in spec.pieces:
        if piece.sizes:
            assert choices is not None
            log_p = _log_probabilities(choices[0][:, piece.values], piece.sizes)
            entropy = -(np.exp(log_p) * log_p).sum(axis=1)
        else:
            assert box is not None
            std = np.asarray(box.std)[:, piece.columns].astype(float)
            entropy = (np.log(std) + 0.5 * (1 + np.log(2 * np.pi))).sum(axis=1)
            deviations[f"policy/std/{piece.name}"] = float(std.mean())
        entropies[f"policy/entropy/{piece.name}"] = float(entropy.mean())
    return entropies | (deviations if len(deviations) > 1 else {})


def measure_masks(mask: Bool[np.ndarray, "B M"], sizes: tuple[int, ...]) -> dict[str, float]:
    """How much the masks of a rollout forbid; ``sizes``: how many values each choice has.

    The share of the values that are forbidden, over all rows and choices, and the share of the choices in
    which one value alone is allowed.
    """
    starts = np.cumsum((0, *sizes[:-1]))
    allowed = np.add.reduceat(mask.astype(int), starts, axis=1)  # values of each choice, [B, K]
    return {
        "policy/masked_fraction": float(1 - mask.mean()),
        "policy/forced_fraction": float((allowed == 1).mean()),
    }


def measure_memory(
    learner: Learner, prepared: Prepared, *, num_envs: int, first: bool
) -> dict[str, float | None]:
    """How much the memories matter, on some rows of a rollout; empty without a memory.

    Each row is seen twice: with what the memory held before the step, and as if it held nothing.

        policy/memory   mean KL(pi(. | obs, carry) || pi(. | obs, 0)), in nats
        value/memory    mean |V(obs, carry) - V(obs, 0)| / std(target)

    ``first``: whether it is the first rollout, in which the policy acted on other observations than those
    that are learned from: nothing is measured of the policy then.
    """
    policy, value = learner.policy, learner.value
    if policy.memory is None and value.memory is None:
        return {}
    batch, found = prepared.batch, {}
    target, advantage = (np.asarray(x).reshape(-1) for x in (batch.target, batch.advantage))
    rows = np.random.default_rng(0).permutation(len(target))[:ROWS]  # of all environments and all steps
    obs = jax.tree.map(lambda x: np.asarray(x).reshape(len(target), *x.shape[2:])[rows], batch.obs)
    if policy.memory is not None:
        acted = jax.tree.map(
            lambda x: np.asarray(x)[_in_time(rows, len(target), num_envs)], prepared.distribution
        )
        found["policy/memory"] = None if first else divergence(acted, _forgetful(policy, obs))
    if value.memory is not None:
        remembered = target[rows] - advantage[rows]  # as the targets were made
        moved = np.abs(remembered - np.asarray(_forgetful(jax.tree.map(np.asarray, value), obs)))
        found["value/memory"] = float(moved.mean() / (target.std() + 1e-8))
    return found


def _in_time(items: Int[np.ndarray, " rows"], size: int, num_envs: int) -> Int[np.ndarray, " rows"]:
    """The rows in C order of [T, N] for rows of items, in which one environment follows another."""
    num_steps = size // num_envs
    return items % num_steps * num_envs + items // num_steps


@jax.jit
def _forgetful(network: Any, obs: PyTree[Array]) -> Any:
    """The outputs for rows, each of which is seen with an empty memory."""
    rows = jax.tree.leaves(obs)[0].shape[0]
    return play_on(network, obs, jnp.zeros((1, rows, network.memory.carry_size)))


def divergence(p: Distribution, q: Distribution) -> float:
    """KL(p || q) in nats, the mean over rows: the sum over the dimensions and choices of an action.

    A dimension gives log(sigma_q / sigma_p) + (sigma_p^2 + (mu_p - mu_q)^2) / (2 sigma_q^2) - 1/2, a choice
    sum_a p(a) log(p(a) / q(a)).
    """
    total, box_p, box_q, choices_p, choices_q = 0.0, box_of(p), box_of(q), logits_of(p), logits_of(q)
    if box_p is not None and box_q is not None:
        mean, std, other, wide = (
            np.asarray(x, float) for x in (box_p.mean, box_p.std, box_q.mean, box_q.std)
        )
        each = np.log(wide / std) + (std**2 + (mean - other) ** 2) / (2 * wide**2) - 0.5
        total += float(each.sum(axis=1).mean())
    if choices_p is not None and choices_q is not None:
        log_p, log_q = _log_probabilities(*choices_p), _log_probabilities(*choices_q)
        total += float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())
    return total


def _log_probabilities(logits: Float[np.ndarray, "B M"], sizes: tuple[int, ...]) -> Float[np.ndarray, "B M"]:
    """Of each value of each choice, in float64: finite also where it is masked."""
    parts = np.split(logits.astype(float), np.cumsum(sizes)[:-1], axis=1)
    shifted = [part - part.max(axis=1, keepdims=True) for part in parts]
    return np.concatenate([s - np.log(np.exp(s).sum(axis=1, keepdims=True)) for s in shifted], axis=1)
