"""Keep compiled programs between starts, in a folder of the user's own."""

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

from poise.system import gpu
from poise.system.terminal import print
from poise.system.threads import num_threads

NOT_KEPT = "compiled programs are not kept for the next start"


def keep_compiled(keep: bool) -> None:
    """Make JAX save and load compiled programs, unless its cache is configured already.

    The folder is ``$XDG_CACHE_HOME/poise/<key>`` (``~/.cache`` without the variable). The key depends on
    processor, GPU and versions: code compiled for another processor may crash this one. The contents are
    executed, so the folder is not used if another user may write to it, or may replace one of its parents.
    Entries that cannot be read are replaced.

    Args:
        keep: whether to do so; False changes nothing.
    """
    if not keep or jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    folder = _folder()
    if folder is None:
        return
    if (why := _insecure(folder)) is not None:
        _tell(f"{NOT_KEPT}: {why}")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # by default JAX keeps only programs that took a second; a training also has many small ones
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    _replace_damaged(folder)


def _folder() -> Path | None:
    """The folder, with links resolved; made if it is missing; None if it cannot be made."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        folder = (root / "poise" / _key()).resolve()
        missing = list(itertools.takewhile(lambda place: not place.exists(), (folder, *folder.parents)))
        for place in reversed(missing):
            place.mkdir(mode=0o700, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or a disk that is full or read-only
        return None
    return folder if folder.is_dir() else None


def _insecure(folder: Path) -> str | None:
    """Why another user could change the contents of the folder; None if nobody can."""
    if not hasattr(os, "getuid"):
        return None
    for place in (folder, *folder.parents):
        status = place.stat()
        if status.st_uid not in (0, os.getuid()):
            return f"{place} belongs to another user"
        is_poises = place in (folder, folder.parent)  # poise made these two; the rules for parents are weaker
        if status.st_mode & stat.S_ISVTX and not is_poises:
            continue  # as in /tmp: others cannot rename this user's files
        group_is_private = not is_poises and _private(status.st_gid)
        writers = stat.S_IWOTH if group_is_private else stat.S_IWOTH | stat.S_IWGRP
        if status.st_mode & writers:
            return f"other users may write {place} (chmod go-w {shlex.quote(str(place))})"
    return None


def _private(group: int) -> bool:
    """Whether this user is the only member of a group, as on systems with a group for each user."""
    try:
        import grp
        import pwd

        user, entry = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(group)
    except (ImportError, KeyError):
        return False
    return entry.gr_name == user and set(entry.gr_mem) <= {user}


def _replace_damaged(folder: Path) -> None:
    """Make JAX delete an entry that it cannot read, or could not write completely.

    By default JAX warns about it at each start, compiles, and does not write the result because an entry
    exists. It has no setting for this.
    """
    inner: Any = importlib.import_module("jax._src.compilation_cache")
    read, write = inner.get_executable_and_time, inner.put_executable_and_time

    def drop(key: str) -> None:
        with contextlib.suppress(OSError):
            (folder / f"{key}-cache").unlink()

    def read_or_drop(key: str, *others: Any) -> tuple[Any, int | None]:
        try:
            return read(key, *others)
        except Exception:  # a decompressor or the compiler may raise anything
            drop(key)
            return None, None  # no entry: JAX compiles and writes one

    def write_or_drop(key: str, *others: Any) -> None:
        try:
            write(key, *others)
        except OSError as error:  # the disk is full
            drop(key)
            _tell(f"{NOT_KEPT}: {folder}: {error.strerror}")

    inner.get_executable_and_time, inner.put_executable_and_time = read_or_drop, write_or_drop


@functools.cache  # each line only once
def _tell(line: str) -> None:
    if sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)


def _key() -> str:
    """A hash of the processor, the versions, the number of threads that compiled code uses, and the GPU."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib")]
    facts = "\n".join([platform.machine(), processor(), *versions, f"{num_threads()} threads", *gpu.kinds()])
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def processor() -> str:
    """The model and the instruction sets of the processor, as the system reports them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")  # the last two on ARM
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
