"""Records as named arrays, the form in which they are stored, and back.

JAX is imported inside the functions: a process that only steps an environment never loads it.
"""

from collections.abc import Collection, Mapping
from typing import Any

from poise.errors import PoiseError


class ArraysError(PoiseError):
    """Arrays that do not fit a record. The message names the first that does not."""


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a record by path, such as ``policy.mlp.weight.0``; random keys as their numbers."""
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): _plain(leaf) for path, leaf in leaves}


def _is_key(leaf: Any) -> bool:
    import jax

    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    import jax

    if not _is_key(leaf):
        return leaf
    data = jax.random.key_data
    return jax.eval_shape(data, leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else data(leaf)


def fitted(expected: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Checks names, shapes and dtypes of ``arrays`` against those of ``expected``.

    Raises:
        ArraysError: they differ.
    """
    if differing := sorted(arrays.keys() ^ expected.keys()):
        problem = "is missing" if differing[0] in expected else "is not part of the record"
        raise ArraysError(f"array {differing[0]} {problem}")
    for name, leaf in expected.items():
        array = arrays[name]
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise ArraysError(
                f"{name} is {array.dtype}{list(array.shape)}, should be {leaf.dtype}{list(leaf.shape)}"
            )


def filled(template: Any, arrays: Mapping[str, Any]) -> Any:
    """The record ``template`` (arrays, or only shapes and dtypes) with its leaves from ``arrays``.

    Raises:
        ArraysError: names, shapes or dtypes differ.
    """
    import jax

    expected = named(template)
    fitted(expected, arrays)
    leaves = [
        jax.random.wrap_key_data(jax.numpy.asarray(arrays[name])) if _is_key(leaf) else arrays[name]
        for name, leaf in zip(expected, jax.tree.leaves(template), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def part(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays whose name begins with ``prefix`` and a dot, named without it."""
    return {n.removeprefix(f"{prefix}."): a for n, a in arrays.items() if n.startswith(f"{prefix}.")}


def prefixed(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays with ``prefix`` and a dot before each name."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def shapes_with_origin(shapes: Any, arrays: Collection[str]) -> Any:
    """Shapes of a record that holds a ``normalizer``, which has an origin if ``arrays`` names one."""
    if "normalizer.origin" not in arrays:
        return shapes
    import equinox as eqx
    import jax

    origin = jax.ShapeDtypeStruct(shapes.normalizer.obs.mean.shape, jax.numpy.float32)
    return eqx.tree_at(lambda s: s.normalizer.origin, shapes, origin, is_leaf=lambda x: x is None)
