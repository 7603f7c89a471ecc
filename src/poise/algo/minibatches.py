"""The order in which items are learned from: rows, or sequences of a memory."""

import jax
from jaxtyping import Array, Int, Key, PRNGKeyArray

from poise.types import Batch, Tensor


def epoch_keys(key: PRNGKeyArray, iteration: Int[Tensor, ""], num_epochs: int) -> Key[Array, " E"]:
    """A key for the shuffle of each epoch of an iteration."""
    return jax.random.split(jax.random.fold_in(key, iteration), num_epochs)


def shuffle(keys: Key[Array, " E"], size: int, minibatch_size: int) -> Int[Array, "E minibatches M"]:
    """The indices of the items of each minibatch of each epoch, in random order; ``size``: of all items."""
    count = size // minibatch_size  # the remainder is dropped: other rows in each epoch
    order = jax.vmap(lambda key: jax.random.permutation(key, size))(keys)
    return order[:, : count * minibatch_size].reshape(len(keys), count, minibatch_size)


def take(batch: Batch, rows: Int[Array, "minibatches M"]) -> Batch:
    """Those items of the batch: a ``Batch`` whose arrays have one more axis, ``[minibatches, M, ...]``."""
    # gathered before the scan over minibatches, not in each of its steps
    return jax.tree.map(lambda x: x[rows.reshape(-1)].reshape(*rows.shape, *x.shape[1:]), batch)
