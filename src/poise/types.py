"""The records that everything else exchanges.

Letters in every annotation: ``T`` steps of a rollout, ``N`` environments, ``B = T * N`` rows,
``O`` numbers of an observation, ``A`` action size, ``S`` numbers that a memory carries. A record holds arrays
only, from JAX or NumPy. An observation is an array of numbers, or a dictionary with images and a mask
(``poise.spec.Spec``).
"""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree, Shaped

# An array of either library. They share operators but no type, so a static checker is told nothing;
# at run time, in the tests, it is checked.
if TYPE_CHECKING:
    from typing import Any as Tensor
else:
    Tensor = jax.Array | np.ndarray


class Rollout(eqx.Module):
    """Facts only. Values, log-probabilities and advantages are computed from it by ``prepare``."""

    obs: PyTree[Shaped[Tensor, "T N ..."]]  # not normalized; for learning, relative to Normalizer.origin
    action: Shaped[Tensor, "T N ..."]  # as sampled, in the policy's units; choices as indices
    reward: Float[Tensor, "T N"]  # raw
    next_obs: PyTree[Shaped[Tensor, "T N ..."]]  # where the action led, never a reset observation
    terminated: Bool[Tensor, "T N"]  # the task ended: V(next_obs) counts as 0
    truncated: Bool[Tensor, "T N"]  # a time limit ended the episode: V(next_obs) is bootstrapped
    begins: Bool[Tensor, "T N"] | None = None  # the first step of an episode; None without a memory
    carry: Float[Tensor, "N S"] | None = None  # what the policy's memory held before the first step


class Batch(eqx.Module):
    """What learning reads, indexed by minibatch: one item per row ``[B, ...]``.

    ``obs`` is normalized with the statistics of earlier rollouts; in the first one see ``prepare``. With a
    memory an item is a sequence of L steps of one environment: all arrays are ``[items, L, ...]``.
    """

    obs: PyTree[Shaped[Tensor, "items ..."]]
    action: Shaped[Tensor, "items ..."]
    log_prob: Float[Tensor, "items *L"]
    advantage: Float[Tensor, "items *L"]
    target: Float[Tensor, "items *L"]
    begins: Bool[Tensor, "items *L"] | None = None  # the first step of an episode
    policy_carry: Float[Tensor, "items P"] | None = None  # what the memories held before the first step
    value_carry: Float[Tensor, "items V"] | None = None

    @property
    def num_items(self) -> int:
        return self.advantage.shape[0]

    def rows(self, array: Shaped[Tensor, "items ..."]) -> Shaped[Tensor, "rows ..."]:
        """An array of the batch with one row per step."""
        return array if self.begins is None else array.reshape(-1, *array.shape[2:])


class Transitions(eqx.Module):
    """What advantages are computed from, besides the observations of a ``Batch``."""

    reward: Float[Tensor, "T N"]  # normalized
    next_obs: PyTree[Shaped[Tensor, "B ..."]]  # normalized
    terminated: Bool[Tensor, "T N"]
    truncated: Bool[Tensor, "T N"]
    begins: Bool[Tensor, "T N"] | None = None
    value_carry: Float[Tensor, "N S"] | None = None  # before the first step


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
