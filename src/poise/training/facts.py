"""What a rollout says of itself, beside what is learned from it: the facts that a diagnosis rests on."""

import numpy as np
from jaxtyping import Float

from poise.algo.normalize import Normalizer
from poise.training.acting import ActionScale
from poise.types import Rollout


def facts(rollout: Rollout, before: Normalizer, scale: ActionScale) -> dict[str, float | None]:
    """By the names of the metrics; ``before`` are the statistics that the rollout was made with.

    They take no part in learning, and are computed in NumPy so that they cannot move its last bits.
    """
    reward, obs = np.asarray(rollout.reward), np.asarray(rollout.obs)
    return {
        "reward/mean": float(reward.mean(dtype=float)),
        "reward/std": float(reward.std(dtype=float)),
        "policy/saturation": saturation(np.asarray(rollout.action), scale),
        "normalize/shift": shift(obs.reshape(-1, obs.shape[-1]), before),
    }


def saturation(action: np.ndarray, scale: ActionScale) -> float | None:
    """The share of entries, in the policy's units, that lead to a bound or beyond; None without bounds."""
    reached = scale.reached(action)
    return None if reached is None or not reached.size else float(reached.mean())


def shift(obs: Float[np.ndarray, "B O"], before: Normalizer) -> float | None:
    """How far the mean of ``obs`` is from the mean of all observations before, in their deviations.

    Of the dimension where it is farthest; None before the first.
    """
    if not before.obs.count or not obs.shape[1]:
        return None
    mean, std = np.asarray(before.obs.mean), np.asarray(before.obs.std)
    return float(np.max(np.abs(obs.mean(axis=0) - mean) / std))
