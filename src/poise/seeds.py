"""The random streams: one for each purpose, all derived from the seed of the run.

In JAX the i-th key of ``split(key, n)`` is ``fold_in(key, i)``, and numbers drawn from a key use the same
bits as keys split from it. So a key is used either to draw numbers or to derive keys, never for both, and
each purpose has its own branch at the root.
"""

import enum

import jax
import numpy as np
from jaxtyping import PRNGKeyArray


class Stream(enum.IntEnum):
    """The purposes. Those of episodes differ in their last two bits, which end the seeds of the episodes."""

    TRAINING = 0  # starts of training episodes
    EVALUATION = 1  # starts of evaluation episodes
    NOISE = 2  # of the sampled actions
    RESCORING = 3  # starts of the episodes that choose the best agent
    POLICY = 4  # initial weights
    VALUE = 5  # initial weights
    SHUFFLE = 6  # order of the rows in each epoch
    LISTING = 7  # which episodes of an iteration are listed, where not all are
    GREEDY = 10  # starts of the greedy episodes during training
    SAMPLING = 11  # noise of the actions that a score samples, of each episode by its seed
    DEMONSTRATIONS = 12  # order of the rows in each epoch of cloning


def stream_key(seed: int, stream: Stream) -> PRNGKeyArray:
    """The key of one purpose, from which keys are derived with ``fold_in`` or ``split``."""
    return branch(jax.random.key(seed), stream)


def branch(root: PRNGKeyArray, stream: Stream) -> PRNGKeyArray:
    """``stream_key`` of the seed whose key is ``root``."""
    return jax.random.fold_in(root, stream)


def episode_seed(seed: int, stream: Stream, env: int, index: int) -> int:
    """The seed of one episode, 32 bits: a function of the run's seed, the purpose, environment and index.

    The last two bits are those of the stream, so episodes of different purposes have different seeds.
    """
    drawn = int(np.random.SeedSequence((seed, stream, env, index)).generate_state(1)[0])
    return drawn >> 2 << 2 | stream & 3
