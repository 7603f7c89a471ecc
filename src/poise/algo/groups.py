"""Learning from groups of environments, of which each device may have some: means over all groups.

A function of a group's rows runs once per group, under ``jax.vmap`` over the groups of a device and
``jax.shard_map`` over the devices, with these names of axes (``poise.placement.mesh``). What ``gather``
returns has the order of the groups and is the same on every device. So which device has which group changes
no bit, and all devices take the same steps. With one group nothing is gathered.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

DEVICES, GROUPS = "devices", "groups"  # axes: all devices, and the groups of one of them


def gather(tree: PyTree[Array]) -> PyTree[Array]:
    """The arrays of every group, ``[G, ...]``, in the order of the groups."""

    def every(x: Array) -> Array:
        by_device = jax.lax.all_gather(jax.lax.all_gather(x, GROUPS), DEVICES)
        return by_device.reshape(-1, *x.shape)

    return jax.tree.map(every, tree)


def mean_of_groups(tree: PyTree[Array], groups: int) -> Any:
    """The mean over all groups, which have equally many rows."""
    return tree if groups == 1 else jax.tree.map(lambda x: jnp.mean(x, axis=0), gather(tree))


def variance_of_groups(x: Float[Array, " B"], groups: int) -> Float[Array, ""]:
    """The population variance of all rows of all groups."""
    return mean_of_groups(jnp.mean((x - mean_of_groups(jnp.mean(x), groups)) ** 2), groups)


def group_index() -> Int[Array, ""]:
    """The number of the group whose rows the running function has, counted from 0."""
    return jax.lax.axis_index(DEVICES) * jax.lax.axis_size(GROUPS) + jax.lax.axis_index(GROUPS)
