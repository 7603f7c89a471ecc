"""Reads demonstrations from an NPZ file, without pickle, and clones a policy from them.

``obs``: the observations ``[B, *shape]`` as the environment returns them; of a dictionary or a tuple an array
for each leaf, ``obs.NAME``. ``action``: the actions ``[B, *shape]`` as ``env.step`` takes them, or
``action.NAME`` for each part. ``action_mask``: where the environment has a mask that is not part of its
observation.
"""

import io
import math
import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from poise.agents.answers import performed
from poise.agents.reading import AgentError
from poise.arrays import named
from poise.checked import ConfigError
from poise.envs.checking import LARGEST as LARGEST_NUMBER
from poise.envs.packing import nested, pack
from poise.placement import two_devices
from poise.runs.setup import Setup
from poise.spec import IN_JAX, MASK, Leaf, Spec
from poise.spec import Path as Place
from poise.store.files import FileError, open_plain, sum_of
from poise.system.pulse import announced
from poise.system.streams import TextOut
from poise.system.terminal import print
from poise.training.acting import ActionScale
from poise.training.starting.cloning import Cloned, Demonstrations, clone
from poise.wording import counted

LARGEST = 2**31  # bytes of the file, and of its arrays
MOST_ARRAYS = 256


def cloned(setup: Setup, file: TextOut) -> dict[str, Any]:
    """The arrays of policy and normalizer (``Training.initial``) of a training that has demonstrations.

    Raises:
        ConfigError: the file cannot be read, or does not fit the environment.
        TrainingError: the policy became infinite or NaN.
    """
    config, path = setup.config, setup.config.demonstrations
    assert path is not None
    shown = read_demonstrations(Path(path), setup.spec, normalize_action=config.normalize.action)
    what = f"{counted(config.demonstration_epochs, 'epoch')} over {shown.num_rows:,} steps of {path}"
    state = two_devices.init(setup.spec, config)
    with announced(f"cloning: {what}", lambda line: print(line, file=file, flush=True)):
        result: Cloned = clone(state, shown, config, in_jax=setup.task.backend in IN_JAX)
    print(
        f"cloned: {what}; mean log-probability {result.before:.3g} to {result.after:.3g} nats a step",
        file=file,
        flush=True,
    )
    made = {"policy": result.policy, "normalizer": result.normalizer}
    return {name: np.asarray(array) for name, array in named(made).items()}


def sum_of_file(path: str) -> str:
    """SHA-256 of the file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return sum_of(Path(path))
    except FileError as error:
        raise ConfigError(f"demonstrations = {path!r}: {error}") from error


def read_demonstrations(path: Path, spec: Spec, *, normalize_action: bool) -> Demonstrations:
    """The steps in a file. ``normalize_action``: whether the policy acts in [-1, 1].

    Raises:
        ConfigError: it cannot be read, or does not fit the environment.
    """
    try:
        arrays = read_npz(path)
        leaves = {leaf.name: _array(arrays, _name(leaf), leaf.shape) for leaf in spec.obs}
        action = nested({p.path: _array(arrays, _joined("action", p.path), p.shape) for p in spec.action})
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) > 1 or 0 in counts.values():
            raise ValueError(f"the arrays must have the same number of rows, at least 1: {counts}")
        for leaf in spec.obs:
            _check_values(leaf, leaves[leaf.name])
        num_rows = next(iter(counts.values()))
        scale = ActionScale(spec, normalize=normalize_action)
        return Demonstrations(pack(spec, leaves, num_rows), performed(spec, scale, action, num_rows).action)
    except (FileError, AgentError, ValueError, LookupError) as error:
        raise ConfigError(f"demonstrations = {str(path)!r}: {error}") from error


def _name(leaf: Leaf) -> str:
    return MASK if leaf.kind == "mask" and not leaf.path else _joined("obs", leaf.path)


def _joined(first: str, path: Place) -> str:
    return ".".join(map(str, (first, *path)))


def _array(arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in arrays:
        raise ValueError(f"has no array {name}; it has {', '.join(arrays) or 'none'}")
    array = arrays[name]
    if array.ndim == 0 or array.shape[1:] != shape:
        raise ValueError(
            f"array {name} has shape {list(array.shape)}, should be {['rows', *shape]}".replace("'", "")
        )
    return array


def _check_values(leaf: Leaf, array: np.ndarray) -> None:
    if leaf.kind == "vector" and not (np.abs(array.astype(np.float64)) <= LARGEST_NUMBER).all():
        raise ValueError(f"array {_name(leaf)} has infinity, NaN or a number beyond {LARGEST_NUMBER:g}")
    if leaf.kind == "one_hot":
        rows, first = array.reshape(len(array), -1), np.array(leaf.first)[None]
        if not ((rows >= first) & (rows < first + np.array(leaf.sizes)[None])).all():
            raise ValueError(f"array {_name(leaf)} has a value that is not in the observation space")


CHUNK = 2**20  # bytes
BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,  # of a header, as the next ones
    SyntaxError,
    MemoryError,
    RecursionError,
    RuntimeError,
    NotImplementedError,
    EOFError,
)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an NPZ file, each checked before memory is allocated for it. Nothing is unpickled.

    Raises:
        FileError, ValueError: it is not a plain NPZ file of numbers, or too large.
    """
    try:
        with open(open_plain(path, os.O_RDONLY), "rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if len(members) > MOST_ARRAYS or size > LARGEST:
                raise ValueError(f"has {len(members)} arrays of {size:,} bytes, at most {LARGEST:,}")
            return {m.filename.removesuffix(".npy"): _read_npy(archive, m) for m in members}
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except BROKEN as error:
        raise ValueError(f"is not an NPZ file, as np.savez writes it: {error}") from error


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array. No more is decompressed than the member says that it has."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"array {member.filename} is not compressed as np.savez_compressed does it")
    with archive.open(member) as file:  # ``read`` without a size decompresses all, and then cuts it
        data = io.BytesIO(b"".join(iter(lambda: file.read(CHUNK), b"")))
    version = np.lib.format.read_magic(data)
    reads = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in reads:
        raise ValueError(f"array {member.filename} has version {version} of the format; 1.0 and 2.0 are read")
    shape, fortran, dtype = reads[version](data)
    if dtype.kind not in "biuf":
        raise ValueError(f"array {member.filename} has dtype {dtype}, should be numbers")
    content = data.read()
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"array {member.filename} is damaged: shape {list(shape)}, {len(content):,} bytes")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
