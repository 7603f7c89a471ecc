"""The arrays of a safetensors file, each checked before memory is allocated for it.

The format: eight bytes with the length of the header, the header (JSON: dtype and shape of each array, and
where its bytes begin and end), then the bytes of all arrays without gaps. The library's reader copies the
whole file before it checks anything, and makes an object for each of a million arrays. A file may come from
a stranger, so it is read here.
"""

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from poise.store.files import FileError, open_plain, parse_json

LARGEST_HEADER = 2**20  # bytes: room for some 8,000 arrays
MOST_DIMENSIONS = 32

_DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4",
    "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip


@dataclass(frozen=True)
class Described:
    """One array, as the header describes it."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int  # bytes after the header

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def read_arrays(
    path: Path, sha256: Any, most: int, check: Callable[[Mapping[str, Described]], None]
) -> dict[str, np.ndarray]:
    """The arrays of a file.

    Args:
        path: the file.
        sha256: its sum in hexadecimal digits; any other value fits no file.
        most: bytes that it may have.
        check: gets the arrays that the header describes, and raises if they are not as expected.

    Raises:
        FileError: it is not a plain file, too large, damaged, or has another sum.
        Exception: whatever ``check`` raises.
    """
    try:
        with open(open_plain(path, os.O_RDONLY), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise FileError(f"{path}: is too large: {size:,} bytes, at most {most:,}")
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise FileError(f"{path}: is not what was saved (its SHA-256 differs)")
            file.seek(0)
            described = _header(file, size)
            check(described)
            return {name: _body(file, array) for name, array in described.items()}
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{path}: is damaged: {error!r:.200}") from error


def _header(file: BinaryIO, size: int) -> dict[str, Described]:
    """The arrays by name, in the order of their bytes. Leaves the file at the first byte of the first array.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the header does not describe the file.
    """
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= min(size - 8, LARGEST_HEADER):
        raise ValueError(f"a header of {length:,} bytes")
    entries = parse_json(file.read(length).decode())
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ValueError("a header that is not an object of objects")
    described = {n: _described(n, entry) for n, entry in entries.items() if n != "__metadata__"}
    described = dict(sorted(described.items(), key=lambda item: (item[1].begin, item[1].nbytes)))
    end = 0
    for name, array in described.items():
        if array.begin != end:
            raise ValueError(f"{name!r:.60} does not begin where the array before it ends")
        end += array.nbytes
    if end != size - 8 - length:
        raise ValueError(f"{end:,} bytes of arrays are described, {size - 8 - length:,} are there")
    return described


def _described(name: str, entry: Mapping[str, Any]) -> Described:
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    if any(type(n) is not int or n < 0 for n in (*shape, begin, end)) or len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"shape or place of {name!r:.60}")
    array = Described(np.dtype(_DTYPES[entry["dtype"]]), tuple(shape), begin)
    if end - begin != array.nbytes:
        raise ValueError(f"{name!r:.60} has {end - begin:,} bytes, its shape needs {array.nbytes:,}")
    return array


def _body(file: BinaryIO, described: Described) -> np.ndarray:
    return np.fromfile(file, described.dtype, math.prod(described.shape)).reshape(described.shape)
