"""Where every random number comes from: one stream for each purpose, all derived from the run's seed.

In JAX the i-th key of ``split(key, n)`` is ``fold_in(key, i)``, and what is drawn from a key is made
of the same bits as the keys split from it. So a key here is either drawn from or derived from, never
both, and each purpose has a branch of its own at the root.
"""

import enum

import jax
import numpy as np
from jaxtyping import PRNGKeyArray


class Stream(enum.IntEnum):
    """What is drawn. Those with episodes differ in their last two bits, which end the episodes' seeds."""

    TRAINING = 0  # how training episodes begin
    EVALUATION = 1  # how evaluation episodes begin
    NOISE = 2  # what the sampled actions differ by from the mean
    RESCORING = 3  # how the episodes begin that choose the best agent
    POLICY = 4  # initial weights
    VALUE = 5
    SHUFFLE = 6  # the order of the rows in each epoch
    GREEDY = 10  # how the episodes begin that an agent plays greedily while it is trained


def stream_key(seed: int, stream: Stream) -> PRNGKeyArray:
    """The key of one purpose, from which others are derived with ``fold_in`` or ``split``."""
    return branch(jax.random.key(seed), stream)


def branch(root: PRNGKeyArray, stream: Stream) -> PRNGKeyArray:
    """``stream_key`` of the seed whose key is ``root``."""
    return jax.random.fold_in(root, stream)


def episode_seed(seed: int, stream: Stream, env: int, index: int) -> int:
    """The seed of one episode, 32 bits: a function of the run's seed, the purpose, and its place.

    The last two bits are the stream's last two, so no episode of one purpose has the seed of another.
    """
    drawn = int(np.random.SeedSequence((seed, stream, env, index)).generate_state(1)[0])
    return drawn >> 2 << 2 | stream & 3
