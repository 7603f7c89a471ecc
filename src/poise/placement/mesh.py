"""Groups of environments on several devices: one function for each group, and where its arrays are.

A function of one group becomes one of all groups. What they share (networks, statistics) is the same on every
device; what they own (environments, rollouts) is split by its first axis, of N environments. Each group has
the same shapes wherever it is, so the number of devices changes no bit. ``algo/groups.py`` has the means.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from poise.algo.groups import DEVICES, GROUPS


@dataclass(frozen=True)
class Layout:
    """``groups`` groups of environments on ``devices``, the first of which have the first groups."""

    groups: int
    devices: tuple[Any, ...]

    @classmethod
    def of(cls, groups: int, devices: Sequence[Any]) -> "Layout":
        """Raises ValueError if the groups cannot be shared equally."""
        if groups % len(devices):
            raise ValueError(f"{groups} groups on {len(devices)} devices")
        return cls(groups, tuple(devices))

    @property
    def mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (DEVICES,))

    def _sharding(self, *axes: str) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def place(self, shared: PyTree, own: PyTree) -> tuple[PyTree, PyTree]:
        """The arrays on their devices: of ``shared`` a copy on each, ``own`` split by the first axis.

        Where the devices are those of several processes, each of these must call this with the same arrays.
        """
        if self.groups == 1:
            return jax.device_put((shared, own), self.devices[0])
        return _put(shared, self._sharding()), _put(own, self._sharding(DEVICES))

    def here(self, tree: PyTree) -> PyTree:
        """The arrays as this process can read and use them alone.

        Where the devices are those of several processes, each of these must call this.
        """
        copies = self._sharding()
        if copies.is_fully_addressable:
            return tree
        return jax.tree.map(lambda x: x.addressable_data(0), _copied(copies)(tree))

    def of_all_groups(self, function: Callable[[Any, Any], tuple[Any, Any, Any]]) -> Callable:
        """``function(shared, own) -> (shared, own, found)`` for all groups at once.

        Arrays of ``own`` have the axis of all environments first, and within ``function`` that of its group.
        What a group returns in ``found`` gets an axis in front, ``[G, ...]``. The ``shared`` that it returns
        must be the same in all groups.
        """
        if self.groups == 1:
            return lambda shared, own: function(shared, own)
        here = self.groups // len(self.devices)  # of each device

        def on_a_device(shared: Any, own: Any) -> Any:
            parts = jax.tree.map(lambda x: x.reshape(here, -1, *x.shape[1:]), own)
            over = jax.vmap(function, in_axes=(None, 0), out_axes=(None, 0, 0), axis_name=GROUPS)
            shared, parts, found = over(shared, parts)
            return shared, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts), found

        all_of, split = PartitionSpec(), PartitionSpec(DEVICES)
        return jax.shard_map(
            on_a_device,
            mesh=self.mesh,
            in_specs=(all_of, split),
            out_specs=(all_of, split, split),
            check_vma=False,  # it does not know that a mean over all groups is the same everywhere
        )


def _put(tree: PyTree, sharding: NamedSharding) -> PyTree:
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put(x: Any) -> Any:
        if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)))
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)


@functools.lru_cache(maxsize=1)
def _copied(copies: NamedSharding) -> Callable[[Any], Any]:
    """What copies arrays to all devices."""
    return jax.jit(lambda tree: tree, out_shardings=copies)
