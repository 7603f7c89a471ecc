"""The measurements of an iteration, by the names of the metrics (``poise.training.metrics``).

Nothing here takes part in learning. Most is computed in NumPy and not in the compiled functions of learning:
XLA would fuse it with them and change their last bits.
"""

import jax
import numpy as np
from jaxtyping import Float

from poise.algo.distributions import Choices, DiagGaussian, Distribution, Joint
from poise.algo.hyperparameters import Hyperparameters
from poise.algo.normalize import EPSILON, Normalizer
from poise.algo.update import Measured
from poise.spec import NUMBERS, Episode
from poise.training.acting import ActionScale
from poise.types import Rollout


def measure_rollout(rollout: Rollout, before: Normalizer, scale: ActionScale) -> dict[str, float | None]:
    """The metrics of a rollout; ``before``: the statistics with which its policy acted."""
    # relative to the origin, as the statistics are
    reward, obs = np.asarray(rollout.reward), rollout.obs
    numbers = obs.get(NUMBERS) if isinstance(obs, dict) else obs
    shift = None
    if numbers is not None:
        rows = np.asarray(numbers).reshape(-1, numbers.shape[-1])
        shift = observation_shift(rows, before)
    return {
        "reward/mean": float(reward.mean(dtype=float)),  # float32 would lose digits
        "reward/std": float(reward.std(dtype=float)),
        "policy/saturation": saturation(np.asarray(rollout.action), scale),
        "normalize/shift": shift,
    }


def saturation(action: np.ndarray, scale: ActionScale) -> float | None:
    """The share of entries that scaling moves to a bound or beyond; None without bounds."""
    reached = scale.reached(action)  # None where actions are discrete, empty where none has bounds
    return None if reached is None or not reached.size else float(reached.mean())


def observation_shift(obs: Float[np.ndarray, "B O"], before: Normalizer) -> float | None:
    """Distance of the mean of ``obs`` from the mean of all earlier observations, in their deviations.

    The largest over all dimensions; None in the first rollout.
    """
    normalized = ~before.one_hot
    if not before.obs.count or not normalized.any():
        return None
    # no computation of JAX: it would wait for what the device is at work on
    count, mean, m2 = jax.device_get((before.obs.count, before.obs.mean, before.obs.m2))
    std = np.sqrt(m2 / count + np.float32(EPSILON))
    return float(np.max((np.abs(obs.mean(axis=0) - mean) / std)[normalized]))


def epoch_metrics(measured: Measured, hyper: Hyperparameters) -> dict[str, np.ndarray]:
    """The metrics of each epoch, [E]; NaN where target_kl skipped the whole epoch."""
    policy, value_loss = jax.device_get((measured.policy, measured.value_loss))
    rates = {"policy": hyper.policy_step_size, "value": hyper.value_step_size}
    return {
        "policy/loss": policy.loss,
        "policy/kl": policy.kl,
        "policy/clip_fraction": policy.clip_fraction,
        "policy/entropy": policy.entropy,
        "policy/num_updates": policy.num_updates,
        "value/loss": value_loss,
    } | {f"{name}/learning_rate": np.full(hyper.num_epochs, rate) for name, rate in rates.items()}


def iteration_metrics(
    measured: Measured, epochs: dict[str, np.ndarray], episodes: list[Episode]
) -> dict[str, float | int | None]:
    """The scalars of one iteration. Those of epochs are of the last one that evaluated a minibatch."""
    prepared = measured.prepared
    distribution, explained = jax.device_get((prepared.distribution, prepared.explained_variance))
    returns = [e.episodic_return for e in episodes]
    last = np.flatnonzero(np.asarray(measured.policy.num_seen))[-1]  # the first minibatch always is
    return {
        "episode/return": float(np.mean(returns)) if episodes else None,
        "episode/length": float(np.mean([e.length for e in episodes])) if episodes else None,
        "episode/count": len(episodes),
        **{name: float(values[last]) for name, values in epochs.items() if name.startswith("policy/")},
        "policy/num_updates": int(epochs["policy/num_updates"].sum()),
        "policy/std": mean_std(distribution),
        **{name: float(values[-1]) for name, values in epochs.items() if name.startswith("value/")},
        "value/explained_variance": float(explained),
    }


def box_of(distribution: Distribution) -> DiagGaussian | None:
    """The distribution of the boxes of an action; None if there are none."""
    if isinstance(distribution, Joint):
        return distribution.box
    return distribution if isinstance(distribution, DiagGaussian) else None


def mean_std(distribution: Distribution) -> float | None:
    """The mean standard deviation of the boxes of an action; None if there are none."""
    box = box_of(distribution)
    return None if box is None else float(box.std.mean())


def logits_of(distribution: Distribution) -> tuple[Float[np.ndarray, "B M"], tuple[int, ...]] | None:
    """The logits of all choices of an action, and how many values each choice has; None without choices."""
    choices = distribution.choices if isinstance(distribution, Joint) else distribution
    if isinstance(choices, DiagGaussian):
        return None
    logits = np.asarray(choices.logits)
    return logits, choices.sizes if isinstance(choices, Choices) else (logits.shape[1],)


def probabilities(distribution: Distribution) -> Float[np.ndarray, "B M"] | None:
    """The probability of each value of each choice, one after another; None if there are no choices."""
    found = logits_of(distribution)
    if found is None:
        return None
    logits, sizes = found
    parts = np.split(logits, np.cumsum(sizes)[:-1], axis=1)
    shares = [np.exp(part - part.max(axis=1, keepdims=True)) for part in parts]
    return np.concatenate([share / share.sum(axis=1, keepdims=True) for share in shares], axis=1)
