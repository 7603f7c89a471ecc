"""Files of arrays that somebody else made: what is wrong with them is said before room is made for it."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, from_dtype
from safetensors.numpy import save

from poise.store.files import FileError
from poise.store.tensors import LARGEST_HEADER, read_arrays

DTYPES = ("?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8")


def accept(described):
    pass


def written(tmp_path, header, body=b"", length=None):
    """A file with this header, and its sum."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = (len(text) if length is None else length).to_bytes(8, "little") + text + body
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_files_of_the_library_are_read_bit_for_bit(tmp_path_factory, data):
    names = data.draw(st.lists(st.text(max_size=8).filter(lambda n: n != "__metadata__"), unique=True))
    made = {}
    for name in names:
        dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
        shape = data.draw(st.one_of(st.just(()), array_shapes(min_side=0, max_side=4)))
        made[name] = data.draw(arrays(dtype, shape, elements=from_dtype(dtype)))
    path = tmp_path_factory.getbasetemp() / "written.safetensors"
    path.write_bytes(save(made))
    found = read_arrays(path, hashlib.sha256(path.read_bytes()).hexdigest(), 2**20, accept)
    assert found.keys() == made.keys()
    for name, array in made.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


F4 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("header", "body", "why"),
    [
        ({"a": F4}, b"", r"4 bytes of arrays are described, 0 are there"),
        ({"a": F4}, b"12345", r"4 bytes of arrays are described, 5 are there"),
        ({"a": F4, "b": F4}, b"1234", r"'b' does not begin where the array before it ends"),
        ({"a": {**F4, "data_offsets": [1, 5]}}, b"12345", r"'a' does not begin"),
        ({"a": {**F4, "shape": [2**31, 2**31]}}, b"1234", r"'a' has 4 bytes, its shape needs"),
        ({"a": {**F4, "shape": [-1]}}, b"1234", r"shape or place of 'a'"),
        ({"a": {**F4, "shape": [1] * 33}}, b"1234", r"shape or place of 'a'"),
        ({"a": {**F4, "shape": [True]}}, b"1234", r"shape or place of 'a'"),
        ({"a": {**F4, "dtype": "F128"}}, b"1234", r"KeyError\('F128'\)"),
        ({"a": {**F4, "dtype": []}}, b"1234", r"TypeError"),
        ({"a": 3}, b"1234", r"not an object of objects"),
        ([], b"", r"not an object of objects"),
        (b"{", b"", r"is damaged"),
        (b"\xff", b"", r"is damaged"),
        (b'{"a":' * 10_000, b"", r"nested deeper"),
        (b"", b"", r"a header of 0 bytes"),
        (b" " * (LARGEST_HEADER + 1), b"", r"a header of 1,048,577 bytes"),
    ],
)
def test_an_invalid_header_is_damage(header, body, why, tmp_path):
    path, sha256 = written(tmp_path, header, body)
    with pytest.raises(FileError, match=rf"x\.safetensors: is damaged: .*{why}|x\.safetensors: {why}"):
        read_arrays(path, sha256, 2**22, accept)


def test_a_length_beyond_the_file_is_damage(tmp_path):
    path, sha256 = written(tmp_path, {"a": F4}, b"1234", length=2**62)
    with pytest.raises(FileError, match="a header of 4,611,686,018,427,387,904 bytes"):
        read_arrays(path, sha256, 2**20, accept)


def test_another_sum_and_too_many_bytes_are_refused(tmp_path):
    path, sha256 = written(tmp_path, {"a": F4}, b"1234")
    assert read_arrays(path, sha256, 2**20, accept)["a"].tobytes() == b"1234"
    with pytest.raises(FileError, match="SHA-256 differs"):
        read_arrays(path, "0" * 64, 2**20, accept)
    with pytest.raises(FileError, match="is too large"):
        read_arrays(path, sha256, 20, accept)


CHILD = """
import hashlib, resource, sys
from pathlib import Path
from poise.arrays import ArraysError
from poise.store.checkpoint import Manifest, _fit_training
from poise.config import Config
from poise.store.files import FileError
from poise.spec import Spec
from poise.store.tensors import read_arrays
spec = Spec.flat("E", obs_shape=(3,), num_choices=2)
manifest = Manifest("E", "gymnasium", 256, spec, Config(total_steps=256).settled(spec))
for name in sys.argv[1:]:
    sha256 = hashlib.file_digest(open(name, "rb"), "sha256").hexdigest()
    before = resource.getrusage(0).ru_maxrss
    try:
        read_arrays(Path(name), sha256, 2**31, lambda described: _fit_training(described, manifest))
    except (ArraysError, FileError) as error:
        print(resource.getrusage(0).ru_maxrss - before, error)
"""


@pytest.mark.processes
def test_refusing_a_file_needs_little_memory(tmp_path):
    """600 MB of zeros, and a million arrays of nothing: that took twice the file, and 2 GB and 15 s."""
    size, paths = 600_000_000, []
    zeros = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    nothing = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    for header in ({"x": zeros}, {"world.x": zeros}, {f"a{i}": nothing for i in range(10**6)}):
        text = json.dumps(header).encode()
        paths.append(tmp_path / f"{len(paths)}.safetensors")
        with paths[-1].open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + (size if len(header) == 1 else 0))  # no room on the disk either
    command = [sys.executable, "-c", CHILD, *map(str, paths)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    kilobytes, errors = zip(*(line.split(" ", 1) for line in lines), strict=True)
    assert max(map(int, kilobytes)) < 100_000
    for error, why in zip(
        errors, ("is missing", "its world have 600,000,000 bytes", "a header of"), strict=True
    ):
        assert why in error
