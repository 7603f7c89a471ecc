"""Everything that is computed once per rollout, before any parameter changes."""

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

    batch: Batch
    transitions: Transitions  # what ``recompute`` needs besides the batch
    normalizer: Normalizer  # of the next iteration
    running_return: Float[Array, " N"]
    explained_variance: Float[Array, ""]
    distribution: Distribution  # the one that acted in each row; its arrays carry a leading axis B
    finite: Bool[Array, ""]  # whether the new statistics are free of infinity and NaN


def prepare(
    policy: Policy,
    value: ValueFunction,
    before: Normalizer,
    running_return: Float[Array, " N"],
    rollout: Rollout,
    hyper: Hyperparameters,
) -> Prepared:
    """Values, log-probabilities, advantages and targets of a rollout; rows are in C order of [T, N].

    Observations are scaled with frozen statistics: those of all rollouts before this one (``before``). This
    rollout then enters the statistics of the next iteration. The first rollout has no statistics before it,
    so what is learned from it is scaled with its own. The policy acted without these, and pi_old is the
    policy as it acted.

    Rewards are scaled with statistics that include this rollout, since rewards play no part in acting.
    """
    rollout = jax.tree.map(jnp.asarray, rollout)  # from NumPy, where the environments are on the host
    raw = rows(rollout.obs)
    seen = before.obs.merge(raw)
    own = hyper.normalize_first_rollout
    stats = jax.tree.map(partial(jnp.where, before.obs.count > 0), before.obs, seen) if own else before.obs
    obs, next_obs = scale(stats, raw, hyper), scale(stats, rows(rollout.next_obs), hyper)

    # rewards: by the deviation of the discounted return, which is what the value function learns
    done = rollout.terminated | rollout.truncated
    running, returns = discounted_return(running_return, rollout.reward, done, hyper.reward_gamma)
    after = Normalizer(seen, before.ret.merge(rows(returns)), before.origin)
    reward = normalize_reward(
        after.ret, rollout.reward, enabled=hyper.normalize_reward, bound=hyper.reward_bound
    )

    transitions = Transitions(reward, next_obs, rollout.terminated, rollout.truncated)
    values, advantage, target = estimate(value, obs, transitions, hyper)
    # pi_old. No parameter has changed since the rollout, so the policy gives again what it gave in acting.
    distribution = distributions(policy, acted_obs(before, raw, hyper) if own else obs)
    action = rows(rollout.action)
    log_prob = jax.vmap(lambda d, a: d.log_prob(a))(distribution, action)
    return Prepared(
        batch=Batch(obs, action, log_prob, advantage, target),
        transitions=transitions,
        normalizer=after,
        running_return=jnp.zeros_like(running) if hyper.reset_every_rollout else running,
        explained_variance=explained_variance(values, target),
        distribution=distribution,
        finite=all_finite(after),
    )


def scale(stats: RunningStats, obs: Float[Array, "B O"], hyper: Hyperparameters) -> Float[Array, "B O"]:
    """Observations as the networks read them."""
    bound = hyper.obs_bound
    return jax.vmap(lambda o: normalize_obs(stats, o, enabled=hyper.normalize_obs, bound=bound))(obs)


def acted_obs(before: Normalizer, obs: Float[Array, "B O"], hyper: Hyperparameters) -> Float[Array, "B O"]:
    """Observations as the policy read them in acting. ``obs`` is relative to the origin of ``before``.

    In the first rollout there was no origin yet: it is computed from that rollout.
    """
    if before.origin is not None:
        obs = obs + jnp.where(before.obs.count > 0, 0.0, before.origin)[None]
    return scale(before.obs, obs, hyper)


def rows(array: Shaped[Tensor, "T N ..."]) -> Shaped[Array, "B ..."]:
    """One row per step of an environment, in C order."""
    return jnp.reshape(array, (-1, *array.shape[2:]))


def estimate(
    value: ValueFunction, obs: Float[Array, "B O"], transitions: Transitions, hyper: Hyperparameters
) -> tuple[Float[Array, " B"], Float[Array, " B"], Float[Array, " B"]]:
    """Value, advantage and target of each row; the target is what the value function learns."""
    shape = transitions.reward.shape
    values = jax.vmap(value)(obs)
    next_values = jax.vmap(value)(transitions.next_obs)  # not values shifted by a row: episodes end between
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
