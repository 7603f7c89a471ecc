"""How the files of a run folder are read and written.

A folder may come from a stranger. So only plain files of a possible size are read, and nothing is written
through a link, a pipe or a device. A file is written completely or not at all, except those that grow
(``append_to``).

On systems without ``O_NOFOLLOW`` (Windows), links are followed.
"""

import contextlib
import csv
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from poise.errors import PoiseError, StorageError

DEEPEST = 100  # lists and objects within each other
LARGEST_INTEGER = 2**63
MOST_VALUES = 2**22  # in one text of JSON: each takes up to 100 bytes
LARGEST_JSON = 2**20  # bytes; of a file that poise writes, by default
LARGEST_TABLE = 2**28  # bytes
LONGEST_LINE = 2**16
_LEFTOVER = re.compile(r"(?:.*\.)?tmp-[0-9a-f]{16}")


class FileError(PoiseError):
    """A file is missing, invalid or damaged. The message names the file and the reason."""


def is_full(error: BaseException) -> bool:
    """Whether the disk is full, or the user's quota on it is used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def check_room(path: Path, error: OSError) -> None:
    """Raises the right error if ``path`` could not be written because the disk is full.

    Raises:
        StorageError: the disk is full.
    """
    if is_full(error):
        raise StorageError(f"{path}: the disk is full ({error.strerror}); make room and try again") from error


def _flags(*names: str) -> int:
    """These flags together, without those that the system does not have."""
    return sum(getattr(os, name, 0) for name in names)


def open_plain(path: Path, flags: int, mode: int = 0o666) -> int:
    """Opens a plain file and nothing else. ``open`` makes a file object of the result.

    Raises:
        FileError: it is a link, or is not a plain file.
        OSError: it cannot be opened.
    """
    try:
        opened = os.open(path, flags | _flags("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"), mode)
    except ValueError as error:  # a name with a zero byte
        raise FileError(f"{path}: cannot be opened: {error}") from error
    except OSError as error:
        if path.is_symlink():
            raise FileError(f"{path}: cannot be read or written: it is a link") from error
        if error.errno == errno.ENXIO:  # a pipe that nobody reads, or a socket
            raise FileError(f"{path}: cannot be read or written: it is not a plain file") from error
        raise
    if stat.S_ISREG(os.fstat(opened).st_mode):
        return opened
    os.close(opened)
    raise FileError(f"{path}: cannot be read or written: it is not a plain file")


def open_to_write(path: Path, flags: int = 0) -> int:
    """``open_plain`` to read and write a file without hard links.

    A hard link may be outside of the folder, or in a copy that must not change. If there is one, the file is
    first replaced by a copy.
    """
    with contextlib.suppress(FileNotFoundError):
        if os.lstat(path).st_nlink > 1:
            with open(open_plain(path, os.O_RDONLY), "rb") as shared, fresh_file(path) as own:
                shutil.copyfileobj(shared, own)
    return open_plain(path, os.O_RDWR | flags)


def read_plain(path: Path, most: int) -> bytes:
    """The bytes of a plain file, at most ``most``. Links, pipes and devices are refused.

    Raises:
        FileError: it is something else, too large, or cannot be read.
    """
    try:
        with open(open_plain(path, os.O_RDONLY), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise FileError(f"{path}: is too large: {size:,} bytes, at most {most:,}")
            return file.read(most)
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def sum_of(path: Path) -> str:
    """The SHA-256 of a plain file, in hexadecimal digits.

    Raises:
        FileError: it is something else, or cannot be read.
    """
    try:
        with open(open_plain(path, os.O_RDONLY), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error


def read_text(path: Path, most: int) -> str:
    """The text of a plain file, which is UTF-8.

    Raises:
        FileError: as ``read_plain``, or it is not UTF-8.
    """
    try:
        return read_plain(path, most).decode()
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: is damaged: not UTF-8 from byte {error.start:,} on") from error


def read_lines(path: Path, most: int | None, longest: int = LONGEST_LINE) -> Iterator[str]:
    """The lines of a plain UTF-8 file, one by one, without their ends. ``most``: bytes of the file.

    Raises:
        FileError: as ``read_text``, or a line has more than ``longest`` bytes.
    """
    number = 0
    try:
        with open(open_plain(path, os.O_RDONLY), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if most is not None and size > most:
                raise FileError(f"{path}: is too large: {size:,} bytes, at most {most:,}")
            lines = iter(lambda: file.readline(longest + 1), b"")
            for number, line in enumerate(lines, 1):
                _check_length(path, number, line, longest)
                yield line.decode().rstrip("\r\n")
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: is damaged: line {number:,} is not UTF-8") from error


def _check_length(path: Path, number: int, line: bytes, longest: int) -> None:
    if len(line) > longest:
        raise FileError(f"{path}: is damaged: line {number:,} is longer than {longest:,} bytes")


def read_cells(path: Path, most: int | None = LARGEST_TABLE) -> Iterator[list[str]]:
    """The cells of each row of a plain CSV file, the names of its columns first. ``most``: bytes of the file.

    Raises:
        FileError: as ``read_lines``, it is empty, or a row has more or fewer cells than the first.
    """
    rows = csv.reader(read_lines(path, most), strict=True)
    names: list[str] = []
    try:
        for row in rows:
            if names and len(row) != len(names):
                line = f"{path}: is damaged: line {rows.line_num:,}"
                raise FileError(f"{line} has {len(row)} cells, should have {len(names)}")
            names = names or row
            yield row
    except csv.Error as error:
        raise FileError(f"{path}: is damaged: line {rows.line_num:,}: {error}") from error
    if not names:
        raise FileError(f"{path}: is damaged: it is empty")


def read_json(path: Path, most: int = LARGEST_JSON) -> Any:
    """The content of a plain JSON file.

    Raises:
        FileError: as ``read_text``, or ``parse_json`` refuses its text.
    """
    try:
        return parse_json(read_text(path, most))
    except ValueError as error:
        raise FileError(f"{path}: is damaged: {error!r:.200}") from error


def parse_json(text: str) -> Any:
    """The value of a JSON text. If a key appears twice, the last one counts; NaN and infinity are floats.

    Raises:
        ValueError: it is not JSON, nested deeper than ``DEEPEST``, or has an integer beyond 64 bits or more
            than ``MOST_VALUES`` values.
    """
    if (count := sum(map(text.count, ",[{"))) > MOST_VALUES:  # also counts those within quotes
        raise ValueError(f"{count:,} values, should be at most {MOST_VALUES:,}")
    try:
        value = json.loads(text, parse_int=_integer)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {DEEPEST}") from error
    layer = [value]
    for _ in range(DEEPEST):
        layer = [inner for outer in layer for inner in _inner(outer)]
        if not layer:
            return value
    raise ValueError(f"nested deeper than {DEEPEST}")


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(value := int(digits)) >= LARGEST_INTEGER:
        raise ValueError(f"{digits:.30}: an integer beyond 64 bits")
    return value


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def inside(folder: Path, name: str | Path) -> Path:
    """``folder / name``, after checking that no folder between them is a link.

    Raises:
        FileError: a folder is a link, or ``name`` leads out of ``folder``.
    """
    parts = Path(name).parts
    if Path(name).is_absolute() or ".." in parts:
        raise FileError(f"{folder / name}: is not in {folder}")
    place = folder
    for part in parts[:-1]:
        place /= part
        if place.is_symlink():
            raise FileError(f"{place}: is a link; put the folder itself in its place")
    return folder / name


def own_folder(root: Path, folder: Path) -> Path:
    """Makes ``folder`` if it does not exist. No folder from ``root`` down to it may be a link.

    Raises:
        FileError: a folder is a link, or is not a folder.
    """
    place = root
    for part in folder.relative_to(root).parts:
        place /= part
        with contextlib.suppress(FileExistsError):
            place.mkdir()
        if not stat.S_ISDIR(place.lstat().st_mode):
            kind = "is a link; put the folder itself" if place.is_symlink() else "is not a folder; put one"
            raise FileError(f"{place}: {kind} in its place, or remove it")
    return folder


def _fresh_name(path: Path) -> Path:
    """A name beside ``path`` that nobody can guess."""
    return path.with_name(f"{path.name}.tmp-{secrets.token_hex(8)}")


@contextlib.contextmanager
def fresh_file(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A new file to write into. It replaces ``path`` when the context ends without an error.

    If ``path`` is a link, the link is replaced and its target stays. ``private``: others may not read it.
    """
    fresh = _fresh_name(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _flags("O_NOFOLLOW", "O_BINARY", "O_CLOEXEC")
    opened = os.open(fresh, flags, 0o600 if private else 0o666)
    try:
        with open(opened, "wb") as file:
            yield file
        _put(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def _put(fresh: Path, path: Path) -> None:
    """Renames a complete file to its name.

    Raises:
        FileError: a folder has that name.
    """
    try:
        fresh.replace(path)
    except (IsADirectoryError, NotADirectoryError) as error:
        raise FileError(f"{path}: cannot be written: it is not a plain file; move it away") from error


def write_bytes(path: Path, data: bytes, *, private: bool = False) -> None:
    """Writes ``data`` atomically: if it fails, the old content stays. ``private``: others cannot read it."""
    with fresh_file(path, private=private) as file:
        file.write(data)


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Writes ``text`` atomically: if it fails, the old content stays. ``private``: others cannot read it."""
    write_bytes(path, text.encode(), private=private)


@contextlib.contextmanager
def fresh_path(path: Path) -> Iterator[Path]:
    """``fresh_file`` for code that needs a path: it has the same name, in a new private folder."""
    folder = path.with_name(f"tmp-{secrets.token_hex(8)}")
    folder.mkdir(mode=0o700)  # fails if it exists
    try:
        fresh = folder / path.name
        yield fresh
        _put(fresh, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def append_to(path: Path, *, newline: str | None = None) -> TextIO:
    """A plain file to append text to. It is made if it does not exist.

    Raises:
        FileError: it is a link, or not a plain file.
        OSError: it cannot be opened.
    """
    opened = open_to_write(path, os.O_APPEND | os.O_CREAT)
    return open(opened, "a", encoding="utf-8", newline=newline)


def is_leftover(name: str) -> bool:
    """Whether a file of this name is incomplete."""
    return _LEFTOVER.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Removes incomplete files of processes that were killed. This process must have claimed the folder."""
    for stale in folder.iterdir():
        if not is_leftover(stale.name):
            continue
        with contextlib.suppress(OSError):
            if stale.is_dir() and not stale.is_symlink():
                shutil.rmtree(stale)
            else:
                stale.unlink()
