"""The measurements of an iteration, by the names of the metrics (``poise.training.metrics``).

Nothing here takes part in learning. ``measure`` takes arrays of NumPy and of JAX. Where the parts of an
iteration are compiled apart, it is called with NumPy and not within them: XLA would fuse it with them and
change their last bits. Where whole iterations are one program, it is a part of that.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PyTree

from poise.algo.distributions import Choices, DiagGaussian, Distribution, Joint
from poise.algo.hyperparameters import Hyperparameters
from poise.algo.memory import play_on
from poise.algo.normalize import EPSILON, Normalizer
from poise.algo.prepare import Prepared
from poise.algo.state import Learner, TrainState
from poise.config import PPO
from poise.spec import MASK, NUMBERS, Episode, Spec
from poise.training.acting import ActionScale
from poise.training.metrics import info_metrics
from poise.types import PolicyEpochs, Rollout, Tensor

# Before the first rollout there are no statistics. Its policy acted on other observations than those that are
# learned from.
NOT_IN_FIRST = frozenset({"normalize/shift", "policy/memory"})

Metrics = dict[str, Any]  # scalars by the names of the metrics; None: there is nothing to measure


def measure(
    spec: Spec, scale: ActionScale, before: TrainState, rollout: Rollout, prepared: Prepared
) -> Metrics:
    """What is measured on the arrays of a rollout; ``before``: the state that acted.

    ``rollout``: relative to the origin, as the statistics are.
    """
    rollout, normalizer = known((rollout, before.normalizer))
    distribution, explained = known((prepared.distribution, prepared.explained_variance))
    found = {"policy/std": mean_std(distribution), "value/explained_variance": explained}
    found |= measure_rollout(rollout, normalizer, scale) | measure_parts(distribution, spec)
    if spec.masked:
        found |= measure_masks(rollout.obs[MASK].reshape(-1, spec.num_logits), spec.sizes)
    return found | measure_memory(before.learner, prepared, num_envs=rollout.reward.shape[1])


def known(tree: Any) -> Any:
    """The tree in arrays of NumPy; while a function is traced, as it is."""
    return jax.tree.map(lambda x: x if isinstance(x, Tracer) else np.asarray(x), tree)


def _module(array: Tensor) -> Any:
    """The module with the functions for an array."""
    return np if isinstance(array, np.ndarray) else jnp


def measure_rollout(rollout: Rollout, before: Normalizer, scale: ActionScale) -> Metrics:
    """The metrics of a rollout; ``before``: the statistics with which its policy acted."""
    numbers, shift = _numbers(rollout.obs), None
    if numbers is not None:
        shift = observation_shift(numbers.reshape(-1, numbers.shape[-1]), before)
    return {
        "reward/mean": rollout.reward.mean(dtype=float),  # in NumPy float64
        "reward/std": rollout.reward.std(dtype=float),
        "policy/saturation": saturation(rollout.action, scale),
        "normalize/shift": shift,
    }


def saturation(action: Tensor, scale: ActionScale) -> Any:
    """The share of entries that scaling moves to a bound or beyond; None without bounds."""
    reached = scale.reached(action)  # None where actions are discrete, empty where none has bounds
    return None if reached is None or not reached.size else reached.mean()


def observation_shift(obs: Float[Tensor, "B O"], before: Normalizer) -> Any:
    """Distance of the mean of ``obs`` from the mean of all earlier observations, in their deviations.

    The largest over all dimensions. Without earlier observations it says nothing.
    """
    normalized = ~before.one_hot
    if not normalized.any():
        return None
    xp, stats = _module(obs), before.obs
    std = xp.sqrt(stats.m2 / xp.maximum(stats.count, 1) + np.float32(EPSILON))
    return xp.max((xp.abs(obs.mean(axis=0) - stats.mean) / std)[normalized])


def _numbers(obs: Any) -> Float[Tensor, "T N O"] | None:
    return obs.get(NUMBERS) if isinstance(obs, dict) else obs


def episode_metrics(episodes: list[Episode]) -> dict[str, float | int | None]:
    """The metrics of the episodes that ended in an iteration."""
    names = dict.fromkeys(name for e in episodes for name in e.info)
    means = {name: float(np.mean([e.info[name] for e in episodes if name in e.info])) for name in names}
    return {
        **info_metrics(means),
        "episode/return": float(np.mean([e.episodic_return for e in episodes])) if episodes else None,
        "episode/length": float(np.mean([e.length for e in episodes])) if episodes else None,
        "episode/count": len(episodes),
    }


def epoch_metrics(
    policy: PolicyEpochs, value_loss: Float[np.ndarray, " E"], hyper: Hyperparameters, ppo: PPO
) -> dict[str, np.ndarray]:
    """The metrics of each epoch of a network, [E]; NaN where target_kl skipped the whole epoch."""
    numbers = {"policy/learning_rate": hyper.policy_step_size, "value/learning_rate": hyper.value_step_size}
    if ppo.clip_schedule != "none":
        numbers["policy/clip"] = hyper.clip
    if ppo.entropy_schedule != "none":
        numbers["policy/entropy_coef"] = hyper.entropy_coef
    return {
        "policy/loss": policy.loss,
        "policy/kl": policy.kl,
        "policy/clip_fraction": policy.clip_fraction,
        "policy/entropy": policy.entropy,
        "policy/num_updates": policy.num_updates,
        "value/loss": value_loss,
    } | {
        name: np.full_like(value_loss if name.startswith("value/") else policy.loss, number, float)
        for name, number in numbers.items()
    }


def iteration_metrics(
    epochs: dict[str, np.ndarray], num_seen: Int[np.ndarray, " E"], measured: Metrics, *, first: bool
) -> dict[str, float | int | None]:
    """The scalars of one iteration. Those of epochs are of the last one that evaluated a minibatch.

    ``measured``: by ``measure``. ``first``: whether it is the first iteration.
    """
    last = np.flatnonzero(num_seen)[-1]  # the first minibatch always is
    nothing = {name for name in measured if first and name in NOT_IN_FIRST}
    scalars = {n: None if x is None or n in nothing else float(x) for n, x in measured.items()}
    return {
        **{name: float(values[last]) for name, values in epochs.items() if name.startswith("policy/")},
        "policy/num_updates": int(epochs["policy/num_updates"].sum()),
        **{name: float(values[-1]) for name, values in epochs.items() if name.startswith("value/")},
        **scalars,
    }


def box_of(distribution: Distribution) -> DiagGaussian | None:
    """The distribution of the boxes of an action; None if there are none."""
    if isinstance(distribution, Joint):
        return distribution.box
    return distribution if isinstance(distribution, DiagGaussian) else None


def mean_std(distribution: Distribution) -> Any:
    """The mean standard deviation of the boxes of an action; None if there are none."""
    box = box_of(distribution)
    return None if box is None else box.std.mean()


def logits_of(distribution: Distribution) -> tuple[Float[Tensor, "B M"], tuple[int, ...]] | None:
    """The logits of all choices of an action, and how many values each choice has; None without choices."""
    choices = distribution.choices if isinstance(distribution, Joint) else distribution
    if isinstance(choices, DiagGaussian):
        return None
    return choices.logits, choices.sizes if isinstance(choices, Choices) else (choices.logits.shape[1],)


def probabilities(distribution: Distribution) -> Float[np.ndarray, "B M"] | None:
    """The probability of each value of each choice, one after another; None if there are no choices."""
    found = logits_of(distribution)
    if found is None:
        return None
    logits, sizes = found
    parts = np.split(np.asarray(logits), np.cumsum(sizes)[:-1], axis=1)
    shares = [np.exp(part - part.max(axis=1, keepdims=True)) for part in parts]
    return np.concatenate([share / share.sum(axis=1, keepdims=True) for share in shares], axis=1)


def measure_parts(distribution: Distribution, spec: Spec) -> Metrics:
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
            entropy = -(_module(log_p).exp(log_p) * log_p).sum(axis=1)
        else:
            assert box is not None
            std = box.std[:, piece.columns].astype(float)
            entropy = (_module(std).log(std) + 0.5 * (1 + np.log(2 * np.pi))).sum(axis=1)
            deviations[f"policy/std/{piece.name}"] = std.mean()
        entropies[f"policy/entropy/{piece.name}"] = entropy.mean()
    return entropies | (deviations if len(deviations) > 1 else {})


def measure_masks(mask: Bool[Tensor, "B M"], sizes: tuple[int, ...]) -> Metrics:
    """How much the masks of a rollout forbid; ``sizes``: how many values each choice has.

    The share of the values that are forbidden, over all rows and choices, and the share of the choices in
    which one value alone is allowed.
    """
    ends = np.cumsum((0, *sizes))
    # allowed values of each choice, [K, B]
    allowed = [mask[:, i:j].sum(axis=1) for i, j in itertools.pairwise(ends)]
    return {
        "policy/masked_fraction": 1 - mask.mean(),
        "policy/forced_fraction": (_module(mask).stack(allowed) == 1).mean(),
    }


ROWS = 256  # of a rollout, on which a memory is measured: about 1% of the time that learning takes


def measure_memory(learner: Learner, prepared: Prepared, *, num_envs: int) -> Metrics:
    """How much the memories matter, on some rows of a rollout; empty without a memory.

    Each row is seen twice: with what the memory held before the step, and as if it held nothing.

        policy/memory   mean KL(pi(. | obs, carry) || pi(. | obs, 0)), in nats
        value/memory    mean |V(obs, carry) - V(obs, 0)| / std(target)
    """
    if learner.policy.memory is None and learner.value.memory is None:
        return {}
    (policy, value), batch = known((learner.policy, learner.value)), known(prepared.batch)
    target, advantage = batch.target.reshape(-1), batch.advantage.reshape(-1)
    rows = np.random.default_rng(0).permutation(len(target))[:ROWS]  # of all environments and all steps
    obs = jax.tree.map(lambda x: x.reshape(len(target), *x.shape[2:])[rows], batch.obs)
    found = {}
    if policy.memory is not None:
        in_time = _in_time(rows, len(target), num_envs)
        acted = jax.tree.map(lambda x: x[in_time], known(prepared.distribution))
        found["policy/memory"] = divergence(acted, known(_forgetful(policy, obs)))
    if value.memory is not None:
        remembered = target[rows] - advantage[rows]  # as the targets were made
        moved = abs(remembered - known(_forgetful(value, obs)))
        found["value/memory"] = moved.mean() / (target.std() + 1e-8)
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


def divergence(p: Distribution, q: Distribution) -> Any:
    """KL(p || q) in nats, the mean over rows: the sum over the dimensions and choices of an action.

    A dimension gives log(sigma_q / sigma_p) + (sigma_p^2 + (mu_p - mu_q)^2) / (2 sigma_q^2) - 1/2, a choice
    sum_a p(a) log(p(a) / q(a)).
    """
    total, box_p, box_q, choices_p, choices_q = 0.0, box_of(p), box_of(q), logits_of(p), logits_of(q)
    if box_p is not None and box_q is not None:
        mean, std, other, wide = (x.astype(float) for x in (box_p.mean, box_p.std, box_q.mean, box_q.std))
        far = (std**2 + (mean - other) ** 2) / (2 * wide**2)
        each = _module(std).log(wide / std) + far - 0.5
        total += each.sum(axis=1).mean()
    if choices_p is not None and choices_q is not None:
        log_p, log_q = _log_probabilities(*choices_p), _log_probabilities(*choices_q)
        total += (_module(log_p).exp(log_p) * (log_p - log_q)).sum(axis=1).mean()
    return total


def _log_probabilities(logits: Float[Tensor, "B M"], sizes: tuple[int, ...]) -> Float[Tensor, "B M"]:
    """Of each value of each choice, in NumPy as float64: finite also where it is masked."""
    xp = _module(logits)
    parts = xp.split(logits.astype(float), np.cumsum(sizes)[:-1], axis=1)
    shifted = [part - part.max(axis=1, keepdims=True) for part in parts]
    return xp.concatenate([s - xp.log(xp.exp(s).sum(axis=1, keepdims=True)) for s in shifted], axis=1)
