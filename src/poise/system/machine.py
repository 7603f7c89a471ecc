"""What decides the bits of a training beside its configuration, and the memory that it takes."""

import hashlib
import importlib.metadata
import json
import os
import platform
import sys
from typing import Any

from poise.errors import PoiseError
from poise.system.compile_cache import processor
from poise.system.threads import num_threads, start_jax


class PlatformError(PoiseError):
    """JAX cannot use the platform that JAX_PLATFORMS names."""


def start_platform() -> None:
    """``start_jax``, on the platform that the user chose.

    Raises:
        PlatformError: JAX cannot use it.
    """
    try:
        start_jax()
    except Exception:
        check_platform()
        raise


def check_platform() -> None:
    """Refuses a platform that JAX cannot use, where the user chose one.

    Raises:
        PlatformError: it cannot. The message names the platforms that there are.
    """
    import jax

    asked = os.environ.get("JAX_PLATFORMS") or jax.config.jax_platforms  # pyright: ignore
    if not asked or asked == "cpu":
        return
    try:
        jax.devices()
    except Exception as error:  # an AssertionError where no plugin of that name is installed
        import jax.extend.backend

        jax.config.update("jax_platforms", None)
        there = ", ".join(sorted(jax.extend.backend.backends()))
        why = str(error).split(" (set JAX_PLATFORMS")[0].split(": Backend ")[0].strip()
        raise PlatformError(
            f"JAX_PLATFORMS = {asked}: {why or 'JAX has no such platform here'}; the platforms of this "
            f"installation: {there}. Unset the variable, or install the platform (docs/installation.md)"
        ) from error


def peak_memory() -> int | None:
    """The most bytes of this process that were resident at once, since it began; None where nobody counts."""
    try:
        import resource
    except ImportError:  # on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def versions() -> dict[str, str]:
    names = ("poise", "jax", "jaxlib", "equinox", "optax", "numpy", "gymnasium", "mujoco")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


def processor_name() -> str:
    """The processor's model in a line."""
    lines = dict(line.split(":", 1) for line in processor().splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in lines.items()}
    return named.get("model name") or platform.processor() or platform.machine()


def made_with() -> dict[str, Any]:
    """What is in the fingerprint, for people, and the fingerprint."""
    return {"fingerprint": fingerprint(), "processor": processor_name(), "versions": versions()}


def fingerprint() -> str:
    """Stands for all that decides the bits of a training beside its configuration.

    Versions, processor, and the number of threads where it is not the usual one (``poise.system.threads``).
    """
    computing = [versions(), platform.machine(), platform.system(), processor(), num_threads()]
    facts = json.dumps(computing, sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]
