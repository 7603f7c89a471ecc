"""The records that everything else exchanges.

Letters in every annotation: ``T`` steps of a rollout, ``N`` environments, ``B = T * N`` rows,
``O`` observation size, ``A`` action size. A record holds arrays only, from JAX or NumPy.
"""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

# An array of either library. They share operators but no type, so a static checker is told nothing;
# at run time, in the tests, it is checked.
if TYPE_CHECKING:
    from typing import Any as Tensor
else:
    Tensor = jax.Array | np.ndarray


class Rollout(eqx.Module):
    """Facts only. Values, log-probabilities and advantages are computed from it by ``prepare``."""

    obs: Float[Tensor, "T N O"]  # not normalized; for learning, relative to Normalizer.origin
    action: Shaped[Tensor, "T N ..."]  # as sampled, in the policy's units; an index where discrete
    reward: Float[Tensor, "T N"]  # raw
    next_obs: Float[Tensor, "T N O"]  # where the action led, never a reset observation
    terminated: Bool[Tensor, "T N"]  # the task ended: V(next_obs) counts as 0
    truncated: Bool[Tensor, "T N"]  # a time limit ended the episode: V(next_obs) is bootstrapped


class Batch(eqx.Module):
    """What learning reads: one row per step, ``[B, ...]``, indexed by minibatch.

    ``obs`` is normalized with the statistics of earlier rollouts; in the first one see ``prepare``.
    """

    obs: Float[Tensor, "B O"]
    action: Shaped[Tensor, "B ..."]
    log_prob: Float[Tensor, " B"]
    advantage: Float[Tensor, " B"]
    target: Float[Tensor, " B"]


class Transitions(eqx.Module):
    """What advantages are computed from, besides the observations of a ``Batch``."""

    reward: Float[Tensor, "T N"]  # normalized
    next_obs: Float[Tensor, "B O"]  # normalized
    terminated: Bool[Tensor, "T N"]
    truncated: Bool[Tensor, "T N"]


class PolicyMetrics(eqx.Module):
    """Of one minibatch, before its update. ``kl`` and ``entropy`` in nats, ``clip_fraction`` a share."""

    loss: Float[Tensor, ""]
    kl: Float[Tensor, ""]
    clip_fraction: Float[Tensor, ""]
    entropy: Float[Tensor, ""]


class PolicyEpochs(eqx.Module):
    """Of each epoch: means over its evaluated minibatches (NaN if target_kl skipped all), and two counts.

    The minibatch that exceeds target_kl is evaluated but not applied.
    """

    loss: Float[Tensor, "*E"]
    kl: Float[Tensor, "*E"]
    clip_fraction: Float[Tensor, "*E"]
    entropy: Float[Tensor, "*E"]
    num_seen: Int[Tensor, "*E"]  # minibatches that were evaluated
    num_updates: Int[Tensor, "*E"]  # minibatches that were applied
