"""From a rollout to the rows that are learned from.

``prepare`` runs once, before any parameter changes; ``recompute`` between epochs.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from poise.algo.advantages import gae
from poise.algo.distributions import Distribution
from poise.algo.hyperparameters import Hyperparameters
from poise.algo.losses import explained_variance
from poise.algo.networks import Policy, ValueFunction, distributions
from poise.algo.normalize import (
    Normalizer,
    RunningStats,
    discounted_return,
    normalize_obs,
    normalize_reward,
)
from poise.types import Batch, Rollout, Tensor, Transitions


class Prepared(eqx.Module):
    """What ``prepare`` computes from a rollout and the parameters that acted."""

    batch: Batch  # of the whole rollout
    transitions: Transitions  # what ``recompute`` needs besides the batch
    normalizer: Normalizer  # of the next iteration
    running_return: Float[Array, " N"]
    explained_variance: Float[Array, ""]
    distribution: Distribution  # that each action was drawn from; its arrays have a leading axis B
    finite: Bool[Array, ""]  # whether the new statistics are finite


def prepare(
    policy: Policy,
    value: ValueFunction,
    before: Normalizer,
    running_return: Float[Array, " N"],
    rollout: Rollout,
    hyper: Hyperparameters,
) -> Prepared:
    """Log-probabilities, advantages and targets of a rollout; rows are in C order of [T, N].

    Observations are scaled with frozen statistics: those of all rollouts before this one (``before``). This
    rollout then enters the statistics of the next iteration. No statistics precede the first rollout: the
    policy acted on unscaled observations, and pi_old is computed from those. With
    ``normalize_first_rollout``, learning reads them scaled with the rollout's own statistics. Its ratios then
    differ from 1 even before the first step.

    Rewards are scaled with statistics that include this rollout, since rewards play no part in acting.
    """
    rollout = jax.tree.map(jnp.asarray, rollout)  # NumPy arrays if the environments run on the host
    unscaled = flatten(rollout.obs)
    merged = before.obs.merge(unscaled)
    stats = before.obs
    if hyper.normalize_first_rollout:
        stats = jax.tree.map(partial(jnp.where, before.obs.count > 0), before.obs, merged)
    obs, next_obs = scale_obs(stats, unscaled, hyper), scale_obs(stats, flatten(rollout.next_obs), hyper)

    done = rollout.terminated | rollout.truncated
    running, returns = discounted_return(running_return, rollout.reward, done, hyper.reward_gamma)
    after = Normalizer(merged, before.ret.merge(flatten(returns)), before.origin)
    reward = normalize_reward(
        after.ret, rollout.reward, enabled=hyper.normalize_reward, bound=hyper.reward_bound
    )

    transitions = Transitions(reward, next_obs, rollout.terminated, rollout.truncated)
    values, advantage, target = estimate(value, obs, transitions, hyper)
    # pi_old: no parameter has changed since the rollout, so these are the distributions that acted
    distribution = distributions(policy, acted_obs(before, unscaled, hyper))
    action = flatten(rollout.action)
    log_prob = jax.vmap(lambda d, a: d.log_prob(a))(distribution, action)
    return Prepared(
        batch=Batch(obs, action, log_prob, advantage, target),
        transitions=transitions,
        normalizer=after,
        # every rollout starts new episodes, or continues those that run
        running_return=jnp.zeros_like(running) if hyper.reset_every_rollout else running,
        explained_variance=explained_variance(values, target),
        distribution=distribution,
        finite=all_finite(after),
    )


def scale_obs(stats: RunningStats, obs: Float[Array, "B O"], hyper: Hyperparameters) -> Float[Array, "B O"]:
    """Observations as the networks read them."""
    bound = hyper.obs_bound
    return jax.vmap(lambda o: normalize_obs(stats, o, enabled=hyper.normalize_obs, bound=bound))(obs)


def acted_obs(before: Normalizer, obs: Float[Array, "B O"], hyper: Hyperparameters) -> Float[Array, "B O"]:
    """Observations as the policy read them in acting. ``obs`` is relative to the origin of ``before``.

    The policy acted in the first rollout without an origin, which is computed from that rollout: it is added
    back. In every other rollout these are the observations that are learned from.
    """
    if before.origin is not None:
        obs = obs + jnp.where(before.obs.count > 0, 0.0, before.origin)[None]
    return scale_obs(before.obs, obs, hyper)


def flatten(array: Shaped[Tensor, "T N ..."]) -> Shaped[Array, "B ..."]:
    """One row per step of an environment, in C order."""
    return jnp.reshape(array, (-1, *array.shape[2:]))


def estimate(
    value: ValueFunction, obs: Float[Array, "B O"], transitions: Transitions, hyper: Hyperparameters
) -> tuple[Float[Array, " B"], Float[Array, " B"], Float[Array, " B"]]:
    """Value, advantage and target of each row; the target is what the value function learns."""
    shape = transitions.reward.shape
    values = jax.vmap(value)(obs)
    next_values = jax.vmap(value)(
        transitions.next_obs
    )  # not V one step later: that may be of a reset observation
    advantage = gae(
        transitions.reward,
        values.reshape(shape),
        next_values.reshape(shape),
        transitions.terminated,
        transitions.truncated,
        gamma=hyper.gamma,
        lam=hyper.lam,
    ).reshape(-1)
    return values, advantage, values + advantage


def recompute(value: ValueFunction, batch: Batch, transitions: Transitions, hyper: Hyperparameters) -> Batch:
    """The batch with advantages and targets by the current ``value``; all else stays, pi_old too."""
    _, advantage, target = estimate(value, jnp.asarray(batch.obs), transitions, hyper)
    return Batch(batch.obs, batch.action, batch.log_prob, advantage, target)


def all_finite(tree: PyTree[Array]) -> Bool[Array, ""]:
    """Whether every entry of every array is a finite number."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
