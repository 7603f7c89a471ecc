"""The two losses of PPO, and what is measured together with them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from poise.algo.groups import moments_of_groups, variance_of_groups
from poise.algo.hyperparameters import Hyperparameters, Number
from poise.algo.memory import play_items
from poise.algo.networks import Policy, ValueFunction
from poise.types import Batch, PolicyMetrics


def clipped_surrogate(
    ratio: Float[Array, " M"], advantage: Float[Array, " M"], clip: Number
) -> Float[Array, " M"]:
    """min(r A, clip(r, 1 - eps, 1 + eps) A). Schulman et al. 2017, arXiv:1707.06347, eq. 7."""
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


def approximate_kl(log_ratio: Float[Array, " M"]) -> Float[Array, ""]:
    """mean((r - 1) - log r): unbiased for KL(old || new), never negative.

    Schulman 2020, "Approximating KL Divergence", estimator k3.
    """
    return jnp.mean(jnp.expm1(log_ratio) - log_ratio)  # expm1 keeps the digits of ratios near 1


def standardize(advantage: Float[Array, " M"], groups: int = 1) -> Float[Array, " M"]:
    """Mean 0 and (population) deviation 1 within the minibatch, of all groups."""
    mean, m2 = moments_of_groups(advantage, groups)
    return (advantage - mean) / (jnp.sqrt(m2 / (advantage.size * groups)) + 1e-8)  # no division by 0


def policy_loss(
    policy: Policy, batch: Batch, hyper: Hyperparameters
) -> tuple[Float[Array, ""], PolicyMetrics]:
    """-mean(clipped surrogate) - entropy_coef * mean entropy, over one minibatch."""
    batch = jax.tree.map(jnp.asarray, batch)
    distribution = play_items(policy, batch.obs, batch.begins, batch.policy_carry)
    log_prob = jax.vmap(lambda d, a: d.log_prob(a))(distribution, batch.rows(batch.action))
    entropy = jnp.mean(jax.vmap(lambda d: d.entropy())(distribution))
    log_ratio = log_prob - batch.rows(batch.log_prob)
    ratio = jnp.exp(log_ratio)  # pi(a|s) / pi_old(a|s)
    advantage = batch.rows(batch.advantage)
    if hyper.normalize_advantage:
        advantage = standardize(advantage)
    loss = -jnp.mean(clipped_surrogate(ratio, advantage, hyper.clip)) - hyper.entropy_coef * entropy
    clip_fraction = jnp.mean(jnp.abs(ratio - 1) > hyper.clip)
    return loss, PolicyMetrics(loss, approximate_kl(log_ratio), clip_fraction, entropy)


def value_loss(value: ValueFunction, batch: Batch) -> Float[Array, ""]:
    """mean((V(s_k) - target_k)^2) over one minibatch; the targets are constants here."""
    values = play_items(value, batch.obs, batch.begins, batch.value_carry)
    return jnp.mean((values - batch.rows(batch.target)) ** 2)


def explained_variance(
    prediction: Float[Array, " B"], target: Float[Array, " B"], groups: int = 1
) -> Float[Array, ""]:
    """1 - var(target - prediction) / var(target): 1 is perfect, 0 is as good as a constant."""
    residual, total = (variance_of_groups(x, groups) for x in (target - prediction, target))
    return 1 - residual / (total + 1e-8)  # 1e-8: all targets may be equal
