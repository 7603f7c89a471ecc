"""The attributes of an environment as one hash each, to find state that a restored environment does not have.

A resumed training repeats the unfinished episode in a new environment. That does not bring back state that
comes from earlier episodes and has an effect only later: running statistics, a counter of resets, a generator
that no reset seeds. So the attributes themselves are compared, by a hash of each. The attributes are not
stored, and nothing is restored from the hashes.
"""

import array
import collections
import datetime
import decimal
import fractions
import functools
import hashlib
import itertools
import random
import sys
import types
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from jaxtyping import Int

OBJECTS = 4000  # of one environment; further ones are not compared
ENTRIES = 2**14  # of an array; of a larger one evenly spaced entries are compared
WATCHED = 50  # steps in which the use of the global random generators is detected
_PLAIN = (
    *(bool, int, float, complex, str, bytes, bytearray, np.generic, np.ndarray),
    *(list, tuple, dict, set, frozenset, collections.deque, random.Random),
    *(np.random.Generator, np.random.RandomState, np.random.BitGenerator, itertools.count),
)
_SCALARS = {bool, int, float, str, type(None)}
_SHOWN = (complex, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, fractions.Fraction)
_LEFT_OUT = {"env", "spec", "metadata", "_cached_spec"}  # the wrapped environment, and descriptions


class Inner:
    """The state of one environment, or of a task of the batch engine.

    ``outermost``: the environment with its wrappers.
    """

    def __init__(self, outermost: Any):
        self._layers = list(_layers(outermost))
        self._num_watched, self._uses_global = 0, False
        self._spaces: dict[int, int | None] = {}  # the generators of its spaces at its first reset

    def before_call(self) -> int | None:
        """Before a reset or a step: a hash of the global random generators; None if it is not needed."""
        if self._uses_global or self._num_watched == WATCHED:
            return None
        if not self._num_watched:
            # Gymnasium's vector environments make these generators. They are state only once they are used.
            self._spaces = {id(s): _generator(s) for layer in self._layers for s in _spaces(layer)}
        self._num_watched += 1
        return _global_generators()

    def after_call(self, generators: int | None) -> None:
        """After it, with the hash that ``before_call`` returned: was a global generator used?"""
        self._uses_global |= generators is not None and _global_generators() != generators

    def state(self) -> dict[str, int]:
        """A hash of each attribute, under a name that a person understands."""
        hashes: dict[str, int] = {}
        left = [OBJECTS]
        for name, value in self._attributes():
            count = 1
            while (numbered := name if count == 1 else f"{name} ({count})") in hashes:
                count += 1
            hashes[numbered] = _hash(value, self._spaces, left)
        if self._uses_global:
            hashes["the generators of numpy.random and random"] = _global_generators()
        return hashes

    def _attributes(self) -> Iterator[tuple[str, Any]]:
        classes: dict[type, None] = {}
        for layer in self._layers:
            for name, value in getattr(layer, "__dict__", {}).items():
                if name not in _LEFT_OUT:
                    yield f"{type(layer).__name__}.{name}", value
            classes |= dict.fromkeys(c for c in type(layer).__mro__ if not _is_library(c.__module__))
        for cls in classes:
            for name, value in _plain(vars(cls)):
                yield f"{cls.__qualname__}.{name} of the class", value
        for module in dict.fromkeys(cls.__module__ for cls in classes):
            for name, value in _plain(vars(sys.modules.get(module, types))):
                yield f"{name} of module {module}", value


def _layers(outermost: Any) -> Iterator[Any]:
    layer = outermost
    while isinstance(layer, gym.Wrapper):
        yield layer
        layer = layer.env
    yield layer


def _spaces(layer: Any) -> Iterator[gym.Space]:
    yield from (value for value in getattr(layer, "__dict__", {}).values() if isinstance(value, gym.Space))


def _is_library(module: str) -> bool:
    """Whether a module is not the user's, so that its classes and variables are not compared."""
    root = module.partition(".")[0]
    return root in sys.stdlib_module_names or root in ("gymnasium", "poise", "numpy", "__mp_main__")


def _plain(namespace: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in list(namespace.items()):
        if not name.startswith("__") and isinstance(value, _PLAIN):
            yield name, value


def _global_generators() -> int:
    legacy: Any = np.random.get_state(legacy=False)  # noqa: NPY002 (others use it)
    key = np.append(legacy["state"]["key"], legacy["state"]["pos"])
    return zlib.crc32(key.tobytes()) ^ _of_random(random.getstate())


def _of_random(state: tuple[Any, ...]) -> int:
    """A fast hash of the state of a Python generator; the same in each process."""
    return hash(state[1]) ^ zlib.crc32(repr(state[2]).encode())


def _generator(space: gym.Space) -> int | None:
    rng = space.__dict__.get("_np_random")
    return None if rng is None else _hash(rng, {})


def _hash(value: Any, spaces: Mapping[int, int | None], left: list[int] | None = None) -> int:
    if type(value) in _SCALARS:  # the usual case, faster than a walk
        return _number(f"{type(value).__name__} {value!r}".encode())
    walk = _Walk(spaces, left or [OBJECTS])
    walk.add(value)
    return int.from_bytes(walk.digest(), "little", signed=True)


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


class _Walk:
    """A hash over an object and its contents. Of an object that cannot be read only the type counts."""

    def __init__(self, spaces: Mapping[int, int | None], left: list[int]):
        self._spaces, self._left = spaces, left
        self._hash = hashlib.blake2b(digest_size=8)
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # keeps objects alive, so that no id() is used twice

    def digest(self) -> bytes:
        return self._hash.digest()

    def add(self, value: Any) -> None:
        if self._left[0] <= 0:
            return
        self._left[0] -= 1
        cls = type(value)
        if cls in _SCALARS:
            self._note(cls.__name__, repr(value).encode())
        elif isinstance(value, np.generic):
            self._note(value.dtype.str, value.tobytes())
        elif id(value) in self._seen:
            self._note("again", str(self._seen[id(value)]).encode())
        else:
            self._seen[id(value)] = len(self._seen)
            self._alive.append(value)
            self._note(f"{cls.__module__}.{cls.__qualname__}", b"")
            try:
                self._add_object(value)
            except Exception:  # an object that raises when it is read
                self._note("hidden", b"")

    def _note(self, kind: str, content: bytes) -> None:
        self._hash.update(f"{kind} {len(content)} ".encode())
        self._hash.update(content)

    def _add_object(self, value: Any) -> None:
        match value:
            case bytes() | bytearray() | array.array():
                self._note("bytes", bytes(value))
            case np.ndarray():
                self._add_array(value)
            case _ if isinstance(value, (*_SHOWN, itertools.count, range)):
                self._note("shown", repr(value).encode())
            case np.random.Generator():
                self.add(value.bit_generator.state)
            case np.random.RandomState():
                self.add(value.get_state(legacy=False))
            case np.random.BitGenerator():
                self.add(value.state)
            case random.Random():
                self.add(_of_random(value.getstate()))
            case Mapping():
                for key, entry in value.items():
                    self.add(key)
                    self.add(entry)
            case list() | tuple() | collections.deque():
                self._note("length", str(len(value)).encode())
                for entry in value:
                    self.add(entry)
            case set() | frozenset():  # its order differs between processes
                self.add(sorted(_hash(entry, self._spaces, self._left) for entry in value))
            case _:
                self._add_other(value)

    def _add_array(self, value: np.ndarray) -> None:
        if value.dtype.hasobject:
            self.add(value.tolist())
            return
        flat = value.reshape(-1)
        sample = flat if flat.size <= ENTRIES else flat[:: -(-flat.size // ENTRIES)]
        self._note(f"{value.dtype.str}{value.shape}", np.ascontiguousarray(sample).tobytes())

    def _add_other(self, value: Any) -> None:
        if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
            self._note("name", getattr(value, "__qualname__", value.__name__).encode())
        elif isinstance(value, types.FunctionType):
            self._note("name", value.__qualname__.encode())
            for cell in value.__closure__ or ():
                self.add(cell.cell_contents)
        elif isinstance(value, types.MethodType):
            self.add(value.__func__)
            self.add(value.__self__)
        elif isinstance(value, functools.partial):
            self.add([value.func, value.args, value.keywords])
        elif isinstance(value, gym.Space):
            rng = _generator(value)
            used = rng is not None and rng != self._spaces.get(id(value), rng)
            self.add([{k: v for k, v in vars(value).items() if k != "_np_random"}, rng if used else None])
        elif not self._add_simulation(value) and not _is_opaque(value):
            self._add_fields(value)

    def _add_fields(self, value: Any) -> None:
        if hasattr(type(value), "__array__"):
            if getattr(value, "size", ENTRIES + 1) <= ENTRIES:
                self._add_array(np.asarray(value))
            return
        slots = [s for c in type(value).__mro__ for s in _slots(c) if hasattr(value, s)]
        for name, entry in [
            *getattr(value, "__dict__", {}).items(),
            *((s, getattr(value, s)) for s in slots),
        ]:
            self.add(name)
            self.add(entry)

    def _add_simulation(self, value: Any) -> bool:
        """Add MuJoCo's state or model, which Python does not see. Whether the value was one of them."""
        mujoco: Any = sys.modules.get("mujoco")
        if mujoco is None or not hasattr(mujoco, "MjModel"):
            return False
        if isinstance(value, mujoco.MjModel):
            buffer = np.empty(mujoco.mj_sizeModel(value), np.uint8)
            mujoco.mj_saveModel(value, None, buffer)
            self._note("model", str(zlib.crc32(buffer.data)).encode())  # large: with its meshes and textures
        elif isinstance(value, mujoco.MjData):
            kind = mujoco.mjtState.mjSTATE_INTEGRATION
            state = np.empty(mujoco.mj_stateSize(value.model, kind))
            mujoco.mj_getState(value.model, value, state, kind)
            self._note("state", state.tobytes())
        else:
            return False
        return True


def _slots(cls: type) -> tuple[str, ...]:
    slots = cls.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _is_opaque(value: Any) -> bool:
    """Objects of the standard library (files, locks, loggers, processes) and registry entries."""
    root = type(value).__module__.partition(".")[0]
    named = isinstance(value, EnvSpec)
    return named or (root in sys.stdlib_module_names and not isinstance(value, types.SimpleNamespace))


NAME, VALUE = 1, 2  # columns of ``packed``; the first is the number of the environment


def packed(states: Sequence[Mapping[str, int]]) -> Int[np.ndarray, "attributes 3"]:
    """The states of several environments as one array. Names are hashed, so no text comes from a file."""
    rows = [(i, _name(name), value) for i, state in enumerate(states) for name, value in state.items()]
    return np.array(rows, np.int64).reshape(-1, 3)


def differing(
    states: Sequence[Mapping[str, int]], saved: Int[np.ndarray, "attributes 3"]
) -> dict[str, list[int]]:
    """The attributes that differ from ``saved``, with the numbers of the environments."""
    changed: dict[str, list[int]] = {}
    for i, state in enumerate(states):
        rows = saved[saved[:, 0] == i]
        before = dict(zip(rows[:, NAME].tolist(), rows[:, VALUE].tolist(), strict=True))
        for name, value in state.items():
            if before.pop(_name(name), None) != value:
                changed.setdefault(name, []).append(i)
        if before:
            changed.setdefault("an attribute that is missing now", []).append(i)
    return changed


@functools.lru_cache(maxsize=10_000)
def _name(name: str) -> int:
    return _number(name.encode())
