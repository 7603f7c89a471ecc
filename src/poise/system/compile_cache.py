"""What JAX has compiled is kept between starts, in a folder of the user's own."""

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import itertools
import os
import platform
import shlex
import stat
import sys
from pathlib import Path
from typing import Any

import jax

from poise.system.terminal import print
from poise.system.threads import num_threads


def keep_compiled(keep: bool) -> None:
    """Has JAX read and write what it compiles, unless its own cache is configured already.

    In ``$XDG_CACHE_HOME/poise/<key>`` (``~/.cache`` without the variable), where the key stands for
    processor and versions: code compiled for another processor may crash this one. What lies in the folder is
    executed: it is not used where another user may write it, or may put another in the place of one of its
    parents. What cannot be read of it is replaced.
    """
    if not keep or jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    folder = _folder()
    if folder is None:
        return
    if (why := _insecure(folder)) is not None:
        _tell(f"what is compiled is not kept for the next start: {why}")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # by itself JAX keeps only what took a second; a training has many small functions, too
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    _replace_damaged(folder)


def _folder() -> Path | None:
    """Where links lead to, made where it is missing; None where it cannot be."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        folder = (root / "poise" / _key()).resolve()
        missing = list(itertools.takewhile(lambda place: not place.exists(), (folder, *folder.parents)))
        for place in reversed(missing):
            place.mkdir(mode=0o700, exist_ok=True)
    except (OSError, RuntimeError):  # no home, a disk that is full or read-only
        return None
    return folder if folder.is_dir() else None


def _insecure(folder: Path) -> str | None:
    """Why another user could change what lies in the folder; None where none can."""
    if not hasattr(os, "getuid"):
        return None
    for place in (folder, *folder.parents):
        found = place.stat()
        if found.st_uid not in (0, os.getuid()):
            return f"{place} belongs to another user"
        own = place in (folder, folder.parent)  # the others have their modes for reasons of their own
        if found.st_mode & stat.S_ISVTX and not own:
            continue  # as in /tmp: others may not rename what is mine
        writers = stat.S_IWOTH if not own and _private(found.st_gid) else stat.S_IWOTH | stat.S_IWGRP
        if found.st_mode & writers:
            return f"other users may write {place} (chmod go-w {shlex.quote(str(place))})"
    return None


def _private(group: int) -> bool:
    """Whether a group is this user's alone, as many systems make one for each user."""
    try:
        import grp
        import pwd

        name, found = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(group)
    except (ImportError, KeyError):
        return False
    return found.gr_name == name and set(found.gr_mem) <= {name}


def _replace_damaged(folder: Path) -> None:
    """Has JAX drop an entry that it cannot read, or that it could not write.

    By itself JAX warns of it at each start, compiles, and does not write what it compiled because there is an
    entry. It has no setting for that.
    """
    inner: Any = importlib.import_module("jax._src.compilation_cache")
    read, write = inner.get_executable_and_time, inner.put_executable_and_time

    def drop(key: str) -> None:
        with contextlib.suppress(OSError):
            (folder / f"{key}-cache").unlink()

    def read_or_drop(key: str, *others: Any) -> tuple[Any, int | None]:
        try:
            return read(key, *others)
        except Exception:  # whatever a decompressor or the compiler raises
            drop(key)
            return None, None  # there is none: it is compiled, and written

    def write_or_drop(key: str, *others: Any) -> None:
        try:
            write(key, *others)
        except OSError as error:  # the disk is full
            drop(key)
            _tell(f"what is compiled is not kept for the next start: {folder}: {error.strerror}")

    inner.get_executable_and_time, inner.put_executable_and_time = read_or_drop, write_or_drop


@functools.cache  # once
def _tell(line: str) -> None:
    if sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)


def _key() -> str:
    """A name for this processor, these versions, and the threads that compiled code splits its sums among."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib")]
    facts = "\n".join([platform.machine(), processor(), *versions, f"{num_threads()} threads"])
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def processor() -> str:
    """Model and instruction sets, as the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")  # the last two on ARM
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
