"""A network of the user in place of the hidden layers: a class of Equinox, made and checked.

class Net(eqx.Module):
    def __init__(self, inputs: int, outputs: int, *, key): ...

    def __call__(self, x):  # float32[inputs] -> float32[outputs]
        ...
"""

import functools
import hashlib
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from poise.arrays import named
from poise.checked import ConfigError
from poise.config import MOST_PARAMETERS, Config
from poise.errors import message_of
from poise.own.naming import class_of, import_named

ROWS = 4  # that a network is tried with: one of zeros, the others random


class OwnNetwork(eqx.Module):
    """A network of the user, for one row. Its arrays are learned; all else is part of the program."""

    arrays: PyTree[Float[Array, "..."]]
    rest: tuple[tuple[Any, ...], Any] = eqx.field(static=True)  # leaves and structure
    option: str = eqx.field(static=True)  # policy.network or value.network
    name: str = eqx.field(static=True)  # module:Class
    inputs: int = eqx.field(static=True)
    outputs: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        leaves, structure = self.rest
        return eqx.combine(self.arrays, jax.tree.unflatten(structure, leaves))(x)


def import_networks(config: Config) -> None:
    """Imports the networks of a configuration that the user has given.

    Raises:
        ConfigError: one cannot be imported.
    """
    for part in (config.policy, config.value):
        import_named([] if part.network is None else [part.network], f"{part.prefix}network")


def make_network(option: str, name: str, inputs: int, outputs: int, *, key: PRNGKeyArray) -> OwnNetwork:
    """A new network, of which shapes and dtypes are checked. It may be traced.

    Raises:
        ConfigError: the name comes from a file alone, the class cannot be made or called with these sizes,
            returns something else than ``float32[outputs]``, or has arrays that cannot be learned.
    """
    cls, where = class_of(name), f"{option} = {name!r}"
    if not issubclass(cls, eqx.Module):
        raise ConfigError(f"{where}: must be a class of Equinox, a subclass of equinox.Module")
    try:
        made: Any = cls(inputs, outputs, key=key)  # pyright: ignore[reportCallIssue]
    except Exception as error:  # of the user's code
        call = f"{cls.__name__}({inputs}, {outputs}, key=key)"
        raise ConfigError(f"{where}: {call} raised {message_of(error)}") from error
    arrays, others = eqx.partition(made, eqx.is_array)
    arrays = jax.tree.map(jnp.asarray, arrays)  # also those of NumPy
    leaves, structure = jax.tree.flatten(others)
    rest = tuple(leaves), structure
    _check_parts(arrays, rest, where)
    row = f"one row, float32[{inputs}]"
    try:
        returned = jax.eval_shape(made, jax.ShapeDtypeStruct((inputs,), jnp.float32))
    except Exception as error:
        raise ConfigError(f"{where}: called with {row}, it raised {message_of(error)}") from error
    if _described(returned) != f"float32[{outputs}]":
        raise ConfigError(
            f"{where}: for {row}, it returned {_described(returned)}, must return float32[{outputs}]"
        )
    return OwnNetwork(arrays, rest, option, name, inputs, outputs)


def _described(returned: Any) -> str:
    """An array as ``float32[3]``; the type of anything else."""
    if not hasattr(returned, "shape"):
        return f"a {type(returned).__name__}"
    return f"{returned.dtype}[{', '.join(map(str, returned.shape))}]"


def _check_parts(arrays: Any, rest: Any, where: str) -> None:
    """Refuses arrays that are not float32, too many of them, and other fields that cannot be compared."""
    learned = named(arrays)
    for name, array in learned.items():
        if array.dtype != jnp.float32:
            raise ConfigError(
                f"{where}: its array {name} is {_described(array)}, must be float32, since all arrays of a "
                "network are learned; keep a constant in the module, or as a tuple in a static field"
            )
    if (count := sum(math.prod(array.shape) for array in learned.values())) > MOST_PARAMETERS:
        raise ConfigError(f"{where}: it has {count:,} parameters, must be <= {MOST_PARAMETERS:,}")
    try:
        hash((jax.tree.structure(arrays), rest))
    except TypeError as error:
        raise ConfigError(
            f"{where}: {error} in its fields; what is learned must be an array of jax.numpy, a constant a "
            "number, a text, a function or a tuple"
        ) from error


def check_network(shapes: OwnNetwork) -> None:
    """Makes a network twice, and calls it: the same key and the same row must give the same numbers.

    Args:
        shapes: the network, or its shapes alone.

    Raises:
        ConfigError: they differ, or an output or a gradient is infinite or NaN.
    """
    where, key = f"{shapes.option} = {shapes.name!r}", jax.random.key(0)
    sizes = shapes.inputs, shapes.outputs
    network, again = (make_network(shapes.option, shapes.name, *sizes, key=key) for _ in range(2))
    if jax.tree.structure(network) != jax.tree.structure(again):
        raise ConfigError(
            f"{where}: two networks of this class differ in a field that is not an array; a function there "
            "must be one of a module, such as jax.nn.silu, not a lambda"
        )
    if not _same(network, again):
        raise ConfigError(f"{where}: made twice with the same key, its arrays differ; draw them from the key")
    rows = jnp.asarray(np.random.default_rng(0).standard_normal((ROWS, shapes.inputs), np.float32))
    rows = rows.at[0].set(0.0)
    outputs, repeated = ([network(row) for row in rows] for _ in range(2))
    if not _same(outputs, repeated):
        raise ConfigError(f"{where}: called twice with the same row, its outputs differ")
    gradient = eqx.filter_grad(lambda net: jnp.sum(jax.vmap(net)(rows[1:]) ** 2))(network)
    for what, numbers in (("arrays", network), ("outputs", outputs), ("gradients", gradient)):
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(numbers)):
            raise ConfigError(f"{where}: its {what} are infinite or NaN")


def programs(tree: Any) -> dict[str, str]:
    """For each network of the user in a record, the SHA-256 of what it computes, which other code changes."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, OwnNetwork))
    own = (node for node in nodes if isinstance(node, OwnNetwork))
    return {node.option: _program(jax.tree.structure(node), _shapes(node)) for node in own}


def _shapes(network: OwnNetwork) -> tuple[Any, ...]:
    return tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(network))


@functools.lru_cache(maxsize=16)
def _program(structure: Any, shapes: tuple[Any, ...]) -> str:
    network = jax.tree.unflatten(structure, shapes)
    row = jax.ShapeDtypeStruct((network.inputs,), jnp.float32)
    text = jax.jit(lambda network, row: network(row)).lower(network, row).as_text()
    return hashlib.sha256(text.encode()).hexdigest()


def _same(first: Any, second: Any) -> bool:
    """Whether two trees of the same structure have the same bits."""
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)
