"""Learning from groups of environments. Each device may hold several groups; means are taken over all.

``jax.shard_map`` over devices and ``jax.vmap`` over the groups of a device give the axes their names
(``poise.placement.mesh``). ``per_group`` turns the latter into a loop, one group after another. What
``gather`` returns has the order of the groups and is the same on every device. So which device has which
group changes no bit, and all devices take the same steps. With one group nothing is gathered.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

DEVICES, GROUPS = "devices", "groups"  # axes: all devices, and the groups of one of them


def per_group(function: Callable, groups: int) -> Callable:
    """The function, for one group after another: compiled the same, however many groups a device has.

    XLA compiles other loops for other shapes, which round differently. All arrays must be arguments.
    """
    if groups == 1:
        return function

    @jax.custom_batching.sequential_vmap
    def run(*arguments):  # the barriers keep a loop of one turn apart from what surrounds it
        return jax.lax.optimization_barrier(function(*jax.lax.optimization_barrier(arguments)))

    return run


def gather(tree: PyTree[Array]) -> PyTree[Array]:
    """The arrays of every group, ``[G, ...]``, in the order of the groups."""

    flat, apart = ravel_pytree(tree)  # one exchange for all: between machines each takes its time
    by_device = jax.lax.all_gather(jax.lax.all_gather(flat, GROUPS), DEVICES)
    return jax.vmap(apart)(by_device.reshape(-1, flat.size))


def mean_of_groups(tree: PyTree[Array], groups: int) -> Any:
    """The mean over all groups, which have equally many rows."""

    def mean(x: Array) -> Array:  # one after another: the order of a sum decides its last bits
        return functools.reduce(jnp.add, [x[i] for i in range(groups)]) / groups

    if groups == 1:
        return tree
    return jax.lax.optimization_barrier(jax.tree.map(mean, jax.lax.optimization_barrier(gather(tree))))


def moments_of_groups(x: Float[Array, "B *S"], groups: int) -> tuple[Float[Array, "*S"], Float[Array, "*S"]]:
    """The mean of all rows of all groups, and the sum of their squared distances from it."""
    # two passes: sum(x^2) - n mean^2 would lose the digits of a small variance
    mean = mean_of_groups(per_group(lambda x: jnp.mean(x, axis=0), groups)(x), groups)
    square = per_group(lambda x, mean: jnp.sum((x - mean[None]) ** 2, axis=0), groups)
    return mean, mean_of_groups(square(x, mean), groups) * groups


def variance_of_groups(x: Float[Array, " B"], groups: int) -> Float[Array, ""]:
    """The population variance of all rows of all groups."""
    return moments_of_groups(x, groups)[1] / (x.shape[0] * groups)


def own_key(key: PRNGKeyArray, groups: int) -> PRNGKeyArray:
    """The key with which a group draws; with one group, ``key`` itself."""
    return key if groups == 1 else jax.random.fold_in(key, group_index())


def group_index() -> Int[Array, ""]:
    """The number of the group whose rows the running function has, counted from 0."""
    return jax.lax.axis_index(DEVICES) * jax.lax.axis_size(GROUPS) + jax.lax.axis_index(GROUPS)
