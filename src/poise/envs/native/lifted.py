"""Arrays of JAX that NumPy's functions accept, so that a task written with NumPy runs compiled.

``np.concatenate`` of such arrays calls ``jax.numpy.concatenate``, by NumPy's own protocols for arrays of
other libraries (NEP 13 for ufuncs, NEP 18 for functions).
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from numpy.lib.mixins import NDArrayOperatorsMixin


class Lifted(NDArrayOperatorsMixin):
    """A JAX array with NumPy's methods. Writing into it replaces its value; a slice of it is a copy."""

    def __init__(self, value: Any):
        self.value = jnp.asarray(value)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        function = getattr(jnp, ufunc.__name__, None)
        if (
            function is None
            or method not in ("__call__", "reduce")
            or (out is not None and method != "__call__")
        ):
            raise TypeError(f"np.{ufunc.__name__} ({method}) has no counterpart in jax.numpy")
        function = function if method == "__call__" else function.reduce
        result = lift(function(*lowered(inputs), **lowered(options)))
        if out is None:
            return result
        (target,) = out
        if not isinstance(target, Lifted):
            raise TypeError(f"np.{ufunc.__name__} cannot write its result, of JAX, into an array of NumPy")
        target.value = result.value.astype(target.value.dtype)
        return target

    def __array_function__(self, function: Any, types: Any, inputs: Any, options: Any) -> Any:
        module = jnp.linalg if function.__module__ == "numpy.linalg" else jnp
        own = getattr(module, function.__name__, None)
        if own is None:
            raise TypeError(f"{function.__module__}.{function.__name__} has no counterpart in jax.numpy")
        return lift(own(*lowered(inputs), **lowered(options)))

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("this function of NumPy does not take arrays of JAX: use another, or an operator")

    def __getitem__(self, index: Any) -> "Lifted":
        return Lifted(self.value[lowered(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.value = self.value.at[lowered(index)].set(lowered(value))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self.value, name)
        if not callable(found):
            return lift(found)
        return lambda *inputs, **options: lift(found(*lowered(inputs), **lowered(options)))

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator["Lifted"]:
        return (Lifted(row) for row in self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __repr__(self) -> str:
        return f"Lifted({self.value})"


def lift(tree: Any) -> Any:
    """The same with arrays of JAX lifted."""
    return jax.tree.map(lambda x: Lifted(x) if isinstance(x, jax.Array) else x, tree)


def lowered(tree: Any) -> Any:
    """The same with the JAX arrays themselves."""
    if isinstance(tree, Lifted):
        return tree.value
    if isinstance(tree, tuple | list):
        return type(tree)([lowered(inner) for inner in tree])
    if isinstance(tree, dict):
        return {key: lowered(inner) for key, inner in tree.items()}
    return tree


def as_jax(value: Any, dtype: Any = None) -> jax.Array:
    """What a function returned, an array of NumPy or lifted, as one of JAX."""
    return jnp.asarray(lowered(value), dtype)
