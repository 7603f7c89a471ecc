"""What JAX has compiled is kept between starts, in a folder of the user's own."""

import hashlib
import importlib.metadata
import os
import platform
import stat
from pathlib import Path

import jax

from poise.threads import num_threads


def keep_compiled(keep: bool) -> None:
    """Has JAX read and write what it compiles, unless its own cache is configured already.

    In ``$XDG_CACHE_HOME/poise/<key>`` (``~/.cache`` without the variable), where the key stands for
    processor and versions: code compiled for another processor may crash this one. A folder that is not
    the user's own, or that others may write, is not used: what lies in it is executed.
    """
    if not keep or jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    folder = _folder()
    if folder is None:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # by itself JAX keeps only what took a second; a training has many small functions, too
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def forget_compiled() -> None:
    """Has JAX drop what it compiled in this process, where that takes a third of what Linux lets it map.

    Each setting that is trained leaves 1,000 to 1,700 mappings, and a process may have 65,530: one that went
    on to its 65th setting ended with a segmentation fault in jaxlib 0.10.2.
    """
    try:
        mapped = Path("/proc/self/maps").read_bytes().count(b"\n")
        allowed = int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):  # another system
        return
    if mapped > allowed // 3:
        jax.clear_caches()


def _folder() -> Path | None:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "poise" / _key()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except (OSError, RuntimeError):  # no home, a disk that is full or read-only
        return None
    foreign = hasattr(os, "getuid") and found.st_uid != os.getuid()
    return None if foreign or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else folder


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
