"""From a rollout to what is learned from.

``prepare`` runs once, before any parameter changes; ``recompute`` between epochs. An **item** is what a
minibatch is made of: a row, or with a memory a sequence of L steps of one environment.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from poise.algo.advantages import gae
from poise.algo.distributions import Distribution
from poise.algo.groups import per_group
from poise.algo.hyperparameters import Hyperparameters
from poise.algo.losses import explained_variance
from poise.algo.memory import first_carries, flatten, from_items, play, play_on, to_items
from poise.algo.networks import Policy, ValueFunction
from poise.algo.normalize import Normalizer, discounted_return, normalize_reward, numbers_of, with_numbers
from poise.types import Batch, Rollout, Transitions


class Prepared(eqx.Module):
    """What ``prepare`` computes from a rollout and the parameters that acted."""

    batch: Batch  # of the whole rollout
    transitions: Transitions  # what ``recompute`` needs besides the batch
    normalizer: Normalizer  # of the next iteration
    running_return: Float[Array, " N"]
    value_carry: Float[Array, "N S"] | None  # after the last step
    explained_variance: Float[Array, ""]
    distribution: Distribution  # that each action was drawn from; rows [B] in C order of [T, N]
    finite: Bool[Array, ""]  # whether the new statistics are finite


def prepare(
    policy: Policy,
    value: ValueFunction,
    before: Normalizer,
    running_return: Float[Array, " N"],
    value_carry: Float[Array, "N S"] | None,
    rollout: Rollout,
    hyper: Hyperparameters,
) -> Prepared:
    """Log-probabilities, advantages and targets of a rollout, with what normalizes the next one."""
    rollout = jax.tree.map(jnp.asarray, rollout)  # NumPy arrays if the environments run on the host
    normal = normalize(before, running_return, rollout, hyper)
    # pi_old: no parameter has changed since the rollout, so these are the distributions that acted
    acts = per_group(_acts, hyper.groups)
    acted, carries, log_prob = acts(policy, normal.acted_obs, rollout)

    items = partial(to_items, shape=rollout.reward.shape, length=hyper.sequence_length)
    obs, ends = jax.tree.map(items, normal.obs), (rollout.terminated, rollout.truncated)
    transitions = Transitions(normal.reward, normal.next_obs, *ends, rollout.begins, value_carry)
    estimated = per_group(estimate, hyper.groups)(value, obs, transitions, hyper)
    batch = Batch(
        obs=obs,
        action=items(flatten(rollout.action)),
        log_prob=items(log_prob),
        advantage=items(estimated.advantage),
        target=items(estimated.target),
        begins=None if hyper.sequence_length is None else items(flatten(rollout.begins)),
        policy_carry=first_carries(rollout.carry, carries, hyper.sequence_length),
        value_carry=estimated.carry,
    )
    return Prepared(
        batch=batch,
        transitions=transitions,
        normalizer=normal.after,
        running_return=normal.running_return,
        value_carry=estimated.last_carry,
        explained_variance=explained_variance(estimated.value, estimated.target, hyper.groups),
        distribution=acted,
        finite=all_finite(normal.after),
    )


def _acts(
    policy: Policy, obs: PyTree[Array], rollout: Rollout
) -> tuple[Distribution, Any, Float[Array, " B"]]:
    """The distributions that acted, the carries after each step and the log-probabilities of the actions."""
    acted, carries = play(policy, obs, rollout.begins, rollout.carry)
    return acted, carries, jax.vmap(lambda d, a: d.log_prob(a))(acted, flatten(rollout.action))


class Normalized(NamedTuple):
    """A rollout as the networks read it, in rows, and the statistics with it."""

    obs: PyTree[Array]
    next_obs: PyTree[Array]
    acted_obs: PyTree[Array]  # as the policy read them in acting
    reward: Float[Array, "T N"]
    after: Normalizer
    running_return: Float[Array, " N"]


def normalize(
    before: Normalizer, running_return: Float[Array, " N"], rollout: Rollout, hyper: Hyperparameters
) -> Normalized:
    """Observations and rewards, normalized.

    Observations are scaled with frozen statistics: those of all rollouts before this one (``before``). This
    rollout then enters the statistics of the next iteration. No statistics precede the first rollout: the
    policy acted on unscaled observations, and pi_old is computed from those. With
    ``normalize_first_rollout``, learning reads them scaled with the rollout's own statistics. Its ratios then
    differ from 1 even before the first step.

    Rewards are scaled with statistics that include this rollout, since rewards play no part in acting.
    """
    unscaled, next_unscaled = jax.tree.map(flatten, (rollout.obs, rollout.next_obs))
    merged = before.observe(unscaled, hyper.groups)
    scales = before
    if hyper.normalize_first_rollout:
        scales = jax.tree.map(partial(jnp.where, before.obs.count > 0), before, merged)
    scaled = per_group(scale_obs, hyper.groups)
    obs, next_obs = scaled(scales, unscaled, hyper), scaled(scales, next_unscaled, hyper)

    done = rollout.terminated | rollout.truncated
    returned = per_group(discounted_return, hyper.groups)
    running, returns = returned(running_return, rollout.reward, done, hyper.reward_gamma)
    after = dataclasses.replace(merged, ret=before.ret.merge(flatten(returns), hyper.groups))
    options = {"enabled": hyper.normalize_reward, "bound": hyper.reward_bound}
    reward = per_group(partial(normalize_reward, **options), hyper.groups)(after.ret, rollout.reward)
    if hyper.reset_every_rollout:  # every rollout starts new episodes, or continues those that run
        running = jnp.zeros_like(running)
    acted = per_group(acted_obs, hyper.groups)(before, unscaled, hyper)
    return Normalized(obs, next_obs, acted, reward, after, running)


def scale_obs(scales: Normalizer, obs: PyTree[Array], hyper: Hyperparameters) -> PyTree[Array]:
    """Observations ``[B, ...]`` as the networks read them."""
    return jax.vmap(lambda o: scales.scale(o, enabled=hyper.normalize_obs, bound=hyper.obs_bound))(obs)


def acted_obs(before: Normalizer, obs: PyTree[Array], hyper: Hyperparameters) -> PyTree[Array]:
    """Observations as the policy read them in acting. ``obs`` is relative to the origin of ``before``.

    The policy acted in the first rollout without an origin, which is computed from that rollout: it is added
    back. In every other rollout these are the observations that are learned from.
    """
    if before.origin is not None:
        origin = jnp.where(before.obs.count > 0, 0.0, before.origin)[None]
        obs = with_numbers(obs, numbers_of(obs) + origin)
    return scale_obs(before, obs, hyper)


class Estimated(NamedTuple):
    """Of each row, and the value function's memory before the first step of each item and after the last."""

    value: Float[Array, " B"]
    advantage: Float[Array, " B"]
    target: Float[Array, " B"]  # what the value function learns
    carry: Float[Array, "items S"] | None
    last_carry: Float[Array, "N S"] | None


def estimate(
    value: ValueFunction, obs: PyTree[Array], transitions: Transitions, hyper: Hyperparameters
) -> Estimated:
    """Value, advantage and target of each row. ``obs``: of the items."""
    shape, length = transitions.reward.shape, hyper.sequence_length
    rows = jax.tree.map(partial(from_items, shape=shape, length=length), obs)
    values, after = play(value, rows, transitions.begins, transitions.value_carry)
    # not V one step later: that may be of a reset observation
    next_values = play_on(value, transitions.next_obs, after)
    advantage = gae(
        transitions.reward,
        values.reshape(shape),
        next_values.reshape(shape),
        transitions.terminated,
        transitions.truncated,
        gamma=hyper.gamma,
        lam=hyper.lam,
    ).reshape(-1)
    carry = first_carries(transitions.value_carry, after, length)
    return Estimated(values, advantage, values + advantage, carry, None if after is None else after[-1])


def recompute(value: ValueFunction, batch: Batch, transitions: Transitions, hyper: Hyperparameters) -> Batch:
    """The batch with advantages and targets by the current ``value``; all else stays, pi_old too."""
    obs = jax.tree.map(jnp.asarray, batch.obs)
    new = per_group(estimate, hyper.groups)(value, obs, transitions, hyper)
    items = partial(to_items, shape=transitions.reward.shape, length=hyper.sequence_length)
    advantage, target = items(new.advantage), items(new.target)
    return dataclasses.replace(batch, advantage=advantage, target=target, value_carry=new.carry)


def all_finite(tree: PyTree[Array]) -> Bool[Array, ""]:
    """Whether every entry of every array is a finite number."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
