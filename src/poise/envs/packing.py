"""Between an environment's own observations and actions and the arrays that a policy reads and returns.

The forms are described at ``poise.spec.Spec``. NumPy alone: an agent that acts needs no Gymnasium.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Shaped

from poise.spec import MASK, NUMBERS, Leaf, Part, Path, Spec, usual_dtype

# the numbers alone, or a dictionary: ``numbers``, images by name, ``action_mask``; each with leading axes
Obs: TypeAlias = Shaped[np.ndarray, "..."] | dict[str, np.ndarray]


def map_arrays(function: Callable[..., Any], *obs: Any) -> Any:
    """``function`` of each array of one or more observations of the same form."""
    if isinstance(obs[0], dict):
        return {key: function(*(each[key] for each in obs)) for key in obs[0]}
    return function(*obs)


def arrays_of(obs: Obs) -> dict[str, np.ndarray]:
    """The arrays of an observation by name; that of an observation of numbers alone is ``numbers``."""
    return obs if isinstance(obs, dict) else {NUMBERS: obs}


def differing_rows(a: Obs, b: Obs) -> Bool[np.ndarray, " N"]:
    """Which of N observations differ, byte for byte: NaN equals NaN here, and -0.0 is not 0.0."""
    pairs = zip(arrays_of(a).values(), arrays_of(b).values(), strict=True)
    rows = [
        [x.tobytes() != y.tobytes() for x, y in zip(first, second, strict=True)] for first, second in pairs
    ]
    return np.any(rows, axis=0)


def read_leaves(spec: Spec, obs: Any) -> dict[str, Any]:
    """The leaves of an environment's observation by name; a mask that is not part of it is left out.

    Raises:
        LookupError, TypeError: a leaf is missing.
    """
    return {leaf.name: at(obs, leaf.path) for leaf in spec.obs if leaf.path or leaf.kind != "mask"}


def at(tree: Any, path: Path) -> Any:
    """What stands at a path in nested dictionaries and tuples."""
    for key in path:
        tree = tree[key]
    return tree


def pack(spec: Spec, leaves: Any, num_envs: int, *, xp: Any = np) -> Any:
    """An observation as a policy reads it, from the arrays ``[N, *shape]`` of its leaves or only leaf.

    ``xp``: whose arrays they are, NumPy's or those of ``jax.numpy``.
    """
    if not isinstance(leaves, Mapping):
        leaves = {spec.obs[0].name: leaves}
    numbers = [_numbers(leaf, leaves[leaf.name], num_envs, xp) for leaf in spec.obs if leaf.width]
    joined = numbers[0] if len(numbers) == 1 else xp.concatenate(numbers, axis=1) if numbers else None
    packed: dict[str, Any] = {} if joined is None else {NUMBERS: joined}
    for leaf in spec.images:
        packed[leaf.name] = xp.asarray(leaves[leaf.name]).reshape(num_envs, *leaf.shape)
    if spec.masked:
        packed[MASK] = xp.asarray(leaves[MASK], bool).reshape(num_envs, spec.num_logits)
    return joined if joined is not None and len(packed) == 1 else packed


def _numbers(leaf: Leaf, array: Any, num_envs: int, xp: Any) -> Float[Any, "N width"]:
    flat = xp.asarray(array).reshape(num_envs, -1)
    if leaf.kind == "vector":
        return flat.astype(usual_dtype(flat.dtype) if xp is np else np.float32, copy=False)
    entry, value = _one_hot(leaf)
    return (flat[:, entry] == value[None].astype(flat.dtype)).astype(np.float32)


@lru_cache(maxsize=64)
def _one_hot(leaf: Leaf) -> tuple[np.ndarray, np.ndarray]:
    """Of each zero or one: the entry that it is about, and the value at which it is one."""
    entry = np.repeat(np.arange(len(leaf.sizes)), leaf.sizes)
    value = np.concatenate([first + np.arange(n) for first, n in zip(leaf.first, leaf.sizes, strict=True)])
    return entry, value


def empty(spec: Spec, num_envs: int) -> Obs:
    """N observations of zeros, of the usual types."""
    dtypes = {"vector": np.float32, "one_hot": np.int64, "image": np.uint8, "mask": bool}
    return pack(spec, {x.name: np.zeros((num_envs, *x.shape), dtypes[x.kind]) for x in spec.obs}, num_envs)


def unpack_action(spec: Spec, rows: Any, *, xp: Any = np) -> Any:
    """The environment's actions for rows of actions in its units, with a leading axis N.

    A Discrete is an array of int64 ``[N]``; a box has float32, other choices have int64, in their own shapes.
    ``xp``: whose arrays they are, NumPy's or those of ``jax.numpy``, in which whole numbers are int32.
    """
    values = {part.path: _values(part, columns, xp) for part, columns in _columns(spec, rows)}
    return nested(values)


def pack_action(spec: Spec, action: Any, num_envs: int | None) -> Float[np.ndarray, "N A_K"]:
    """Rows of actions in the environment's units, with choices from 0: the inverse of ``unpack_action``.

    ``num_envs``: of a batch; None: one action without a leading axis, which becomes one row.

    Raises:
        LookupError, TypeError: a part is missing.
        ValueError: a part has another shape, or is not a number.
    """
    rows, count = [], 1 if num_envs is None else num_envs
    for part in (*spec.boxes, *spec.choices):
        values = np.asarray(at(action, part.path), np.float64)
        shape = part.shape if num_envs is None else (num_envs, *part.shape)
        if values.shape != shape:
            raise ValueError(f"{part.name} has shape {list(values.shape)}, should be {list(shape)}")
        own = values.reshape(count, part.num_columns)
        rows.append(own if part.is_box else own - np.array(part.first, np.float64)[None])
    return np.concatenate(rows, axis=1)


def row_of(batch: Any, row: int) -> Any:
    """One of a batch of actions, which may be nested."""
    if isinstance(batch, dict):
        return {key: row_of(value, row) for key, value in batch.items()}
    return tuple(row_of(value, row) for value in batch) if isinstance(batch, tuple) else batch[row]


def first_of(batch: Any) -> Any:
    """The first of a batch of actions, which may be nested."""
    return row_of(batch, 0)


def only_action(batch: Any) -> Any:
    """The action of a batch of one, as ``env.step`` takes it: that of one Discrete is an int."""
    action = first_of(batch)
    return int(action) if isinstance(action, np.integer) else action


def _columns(spec: Spec, rows: Any) -> list[tuple[Part, Any]]:
    """The columns of each part, in the order of the environment's action."""
    rows, start, columns = rows.reshape(rows.shape[0], -1), 0, {}
    for part in (*spec.boxes, *spec.choices):
        columns[part.path] = rows[:, start : start + part.num_columns]
        start += part.num_columns
    return [(part, columns[part.path]) for part in spec.action]


def _values(part: Part, columns: Any, xp: Any) -> Any:
    if not part.is_box:
        whole = np.int64 if xp is np else np.int32
        columns = xp.rint(columns).astype(whole) + np.array(part.first, whole)[None]
    return columns.reshape(columns.shape[0], *part.shape)


def nested(values: Mapping[Path, Any]) -> Any:
    """Dictionaries and tuples with each value at its path."""
    if () in values:
        return values[()]
    heads = dict.fromkeys(path[0] for path in values)
    tree = {h: nested({path[1:]: v for path, v in values.items() if path[0] == h}) for h in heads}
    return tuple(tree.values()) if all(isinstance(head, int) for head in heads) else tree
