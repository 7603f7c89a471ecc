"""From Gymnasium's spaces to a ``Spec``: what each array of an observation or action is."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from jaxtyping import Bool

from poise.envs.packing import at
from poise.envs.vector import EnvError
from poise.errors import shortened
from poise.spec import MASK, NUMBERS, Leaf, Part, Path, Spec, joined

LEAST_SIDE = 5  # pixels: an array of three axes with shorter sides is read as plain numbers
LEAST_GRAY_SIDE = 16  # pixels of an image of two axes

MaskSource = Literal["obs", "method", "info"]  # what has the mask of the choices


@runtime_checkable
class HasSpaces(Protocol):
    """An environment of Gymnasium, or one in JAX."""

    observation_space: gym.Space
    action_space: gym.Space


def read_spec(id: str, env: HasSpaces, limit: int | None, masks: MaskSource | None) -> Spec:
    """The spec of an environment. ``masks``: where it has masks besides its observation; None: nowhere.

    Raises:
        EnvError: its observation has nothing that can be read, or its action has a part without support.
    """
    action = tuple(_parts(id, env.action_space, limit))
    if not any(part.sizes or part.low != part.high for part in action):
        raise EnvError(_nothing_to_choose(id, env.action_space))
    num_logits = sum(size for part in action for size in part.sizes)
    found = list(_leaves(env.observation_space, (), num_logits))
    obs, left_out = [x for x in found if isinstance(x, Leaf)], [x for x in found if isinstance(x, str)]
    if not any(leaf.width or leaf.kind == "image" for leaf in obs):
        raise EnvError(_nothing_to_see(id, env.observation_space))
    for leaf in obs:
        if leaf.kind == "image" and leaf.name in (NUMBERS, MASK):
            raise EnvError(f"{id}: its image {leaf.name!r} needs another name")
    if masks in ("method", "info"):
        obs.append(Leaf((), "mask", (num_logits,)))
    return Spec(id, tuple(obs), action, limit, tuple(left_out))


def read_alike(spec: Spec, masks: MaskSource | None, reading: Spec | None) -> tuple[Spec, MaskSource | None]:
    """The spec and the place of masks as an agent reads them whose spec is ``reading``; None: as they are.

    An earlier version read every Box as numbers, and no mask outside of it. Its agents still do.
    """
    if reading is None or len(reading.obs) != 1:
        return spec, masks
    whole, *others = spec.obs
    numbers = dataclasses.replace(whole, kind="vector", low=0.0, high=1.0, channels=None)
    same = not whole.path and whole.kind in ("vector", "image") and reading.obs == (numbers,)
    if not same or any(leaf.kind != "mask" for leaf in others):
        return spec, masks
    return dataclasses.replace(spec, obs=reading.obs), None


def mask_source(env: gym.Env, in_info: Callable[[], bool]) -> MaskSource | None:
    """Where the environment has masks of its choices: in its observation, a method, or its info.

    ``in_info`` resets the environment, and says whether the info has a mask.
    """
    sizes = list(_sizes(env.action_space))
    if not sizes:
        return None
    space = env.observation_space
    if isinstance(space, gym.spaces.Dict) and MASK in space.spaces and _is_mask(space[MASK], sum(sizes)):
        return "obs"
    if mask_method(env) is not None:
        return "method"
    return "info" if in_info() else None


def mask_method(env: gym.Env) -> Any:
    """The method ``action_masks`` of the environment or of one of its wrappers; None without one."""
    try:
        method = env.get_wrapper_attr("action_masks")
    except AttributeError:
        return None
    return method if callable(method) else None


def flat_mask(mask: Any, spec: Spec) -> Bool[np.ndarray, " M"]:
    """The mask of all choices in a row, from a row or from the form of the action space.

    Raises:
        ValueError: it does not have one flag for each value of each choice.
    """
    flags: list[np.ndarray] = []
    nested = isinstance(mask, dict) or (isinstance(mask, tuple) and spec.action[0].path)
    for part in spec.choices if nested else (None,):
        own = mask if part is None else at(mask, part.path)
        if part is not None and own is None:  # as Gymnasium has it: everything is allowed
            flags.append(np.ones(sum(part.sizes), bool))
            continue
        rows: Any = own if isinstance(own, tuple | list) else [own]
        flags += [np.asarray(row).ravel() for row in rows]
    row = np.concatenate(flags).astype(bool)
    if len(row) != spec.num_logits:
        raise ValueError(f"{MASK} has {len(row)} flags, the choices have {spec.num_logits} values")
    return row


def _leaves(space: gym.Space, path: Path, num_logits: int) -> Iterator[Leaf | str]:
    """The leaves of an observation space, and a sentence for each that is left out."""
    if path[-1:] == (MASK,) and num_logits and not (path == (MASK,) and _is_mask(space, num_logits)):
        yield (
            f"observation {joined(path, 'obs')!r} is not read as a mask: a mask is a key of the whole "
            f"observation, MultiBinary or a Box from 0 to 1, with {num_logits} flags for the choices' values"
        )
    match space:
        case gym.spaces.Dict() | gym.spaces.Tuple():
            for key, inner in _items(space):
                yield from _leaves(inner, (*path, key), num_logits)
        case _ if path == (MASK,) and num_logits and _is_mask(space, num_logits):
            yield Leaf(path, "mask", space.shape or ())
        case gym.spaces.Discrete():
            yield Leaf(path, "one_hot", (), (int(space.n),), (int(space.start),))
        case gym.spaces.MultiDiscrete():
            sizes = tuple(int(n) for n in space.nvec.ravel())
            yield Leaf(path, "one_hot", space.shape, sizes, tuple(int(n) for n in space.start.ravel()))
        case gym.spaces.MultiBinary():
            yield Leaf(path, "vector", space.shape)
        case gym.spaces.Box() if math.prod(space.shape) and np.dtype(space.dtype).kind in "fiub":
            yield _image(space, path) or Leaf(path, "vector", space.shape)
        case _:
            kind = "has no numbers" if isinstance(space, gym.spaces.Box) else f"is {type(space).__name__}"
            yield f"observation {joined(path, 'obs')!r} {kind}: it is left out, because no network reads it"


def _items(space: Any) -> list[tuple[str | int, gym.Space]]:
    if isinstance(space, gym.spaces.Dict):
        return [(str(key), inner) for key, inner in space.spaces.items()]
    return list(enumerate(space.spaces))


def _is_mask(space: gym.Space, num_logits: int) -> bool:
    """Whether a space can be that of a mask: one flag for each value of each choice."""
    box = isinstance(space, gym.spaces.Box) and space.low.min() >= 0 and space.high.max() <= 1
    flags = box or isinstance(space, gym.spaces.MultiBinary)
    return flags and math.prod(space.shape or ()) == num_logits


def _image(space: gym.spaces.Box, path: Path) -> Leaf | None:
    """The leaf of an image; None if the array is not one.

    An image has two long axes, and an axis of channels that is not longer than these, first or last; or it
    has two axes of uint8. Its pixels have finite bounds.
    """
    shape, low, high = space.shape, float(space.low.min()), float(space.high.max())
    if not (math.isfinite(high - low) and high > low):
        return None
    if len(shape) == 2 and space.dtype == np.uint8 and min(shape) >= LEAST_GRAY_SIDE:
        return Leaf(path, "image", shape, low=low, high=high)
    if len(shape) != 3:
        return None
    channels = 2 if shape[2] <= min(shape[:2]) else 0 if shape[0] < min(shape[1:]) else None
    sides = shape[:2] if channels == 2 else shape[1:]
    if channels is None or min(sides) < LEAST_SIDE:
        return None
    return Leaf(path, "image", shape, low=low, high=high, channels=channels)


def _parts(id: str, space: gym.Space, limit: int | None, path: Path = ()) -> Iterator[Part]:
    """The parts of an action space.

    Raises:
        EnvError: a part is not supported.
    """
    match space:
        case gym.spaces.Dict() | gym.spaces.Tuple():
            for key, inner in _items(space):
                yield from _parts(id, inner, limit, (*path, key))
        case gym.spaces.Box() if np.issubdtype(space.dtype, np.floating):
            low, high = (tuple(bound.astype(float).ravel().tolist()) for bound in (space.low, space.high))
            yield Part(path, space.shape, low, high)
        case gym.spaces.Discrete():
            yield Part(path, (), sizes=(int(space.n),), first=(int(space.start),))
        case gym.spaces.MultiDiscrete():
            sizes, first = (tuple(int(n) for n in x.ravel()) for x in (space.nvec, space.start))
            yield Part(path, space.shape, sizes=sizes, first=first)
        case gym.spaces.MultiBinary():
            count = math.prod(space.shape)
            yield Part(path, space.shape, sizes=(2,) * count, first=(0,) * count)
        case _:
            raise EnvError(_unsupported_action(id, space, path))


def _sizes(space: gym.Space) -> Iterator[int]:
    """The number of values of each choice in an action space."""
    match space:
        case gym.spaces.Dict() | gym.spaces.Tuple():
            for _, inner in _items(space):
                yield from _sizes(inner)
        case gym.spaces.Discrete():
            yield int(space.n)
        case gym.spaces.MultiDiscrete():
            yield from (int(n) for n in space.nvec.ravel())
        case gym.spaces.MultiBinary():
            yield from (2,) * math.prod(space.shape)


def native_action(space: gym.Space, value: Any) -> Any:
    """An action in the types of its space; rounding does not move real numbers out of their bounds."""
    match space:
        case gym.spaces.Dict():
            return {key: native_action(inner, value[key]) for key, inner in space.spaces.items()}
        case gym.spaces.Tuple():
            return tuple(native_action(inner, value[i]) for i, inner in enumerate(space.spaces))
        case gym.spaces.Discrete():
            return np.int64(value)
        case gym.spaces.Box():
            return np.asarray(value, space.dtype).clip(space.low, space.high)
        case _:
            return np.asarray(value, space.dtype)


def _shown(space: gym.Space) -> str:
    return shortened(str(space), 200)


def _nothing_to_see(id: str, space: gym.Space) -> str:
    problem = f"{id}: observation space {_shown(space)} has no numbers; there is nothing to learn from"
    if isinstance(space, gym.spaces.Box | gym.spaces.Dict | gym.spaces.Tuple):
        return problem
    return (
        f"{id}: observation space {_shown(space)} is not supported: no network reads {type(space).__name__}"
    )


def _unsupported_action(id: str, space: gym.Space, path: Path) -> str:
    where = f" {joined(path, '')!r}" if path else ""
    problem = (
        f"{id}: action space{where} {_shown(space)} is not supported; supported are Box of floats, Discrete, "
        "MultiDiscrete, MultiBinary, and Dict or Tuple of these"
    )
    if path or not isinstance(space, gym.spaces.Box):
        return problem
    rounded = f"lambda a: numpy.rint(a).astype(numpy.{space.dtype})"
    space_of_floats = f"gymnasium.spaces.Box(low, high, {space.shape})"
    return (
        f"{problem}. Write a wrapper in a module, my_envs.py: floats = lambda env: "
        f"gymnasium.wrappers.TransformAction(env, {rounded}, {space_of_floats}), then add --wrapper "
        "my_envs:floats"
    )


def _nothing_to_choose(id: str, space: gym.Space) -> str:
    problem = f"{id}: action space {_shown(space)} leaves nothing to choose"
    if not isinstance(space, gym.spaces.Box) or not math.prod(space.shape):
        return f"{problem}: it has no numbers"
    return (
        f"{problem}: low = high for every action. In a MuJoCo model an actuator without ctrlrange has such "
        'bounds; give it one: <motor joint="hip" ctrlrange="-1 1"/>'
    )
