"""What determines the bits of a training besides its configuration; and the memory that it uses."""

import hashlib
import importlib.metadata
import json
import os
import platform
import sys
from typing import Any

from poise.errors import PoiseError
from poise.system import gpu
from poise.system.compile_cache import processor
from poise.system.threads import THREADS, num_threads, start_jax


class PlatformError(PoiseError):
    """JAX cannot use the platform in JAX_PLATFORMS, or the device that was asked for."""


def start_platform(devices: int = THREADS) -> None:
    """``start_jax`` on the platform that the user chose.

    Raises:
        PlatformError: JAX cannot use the platform.
    """
    try:
        start_jax(devices)
    except Exception:
        check_platform()
        raise


def check_platform() -> None:
    """Check the platform, if the user chose one.

    Raises:
        PlatformError: JAX cannot use it. The message names the available platforms.
    """
    import jax

    asked = chosen_platforms()
    if not asked or asked == "cpu":
        return
    try:
        jax.devices()
    except Exception as error:  # an AssertionError if no plugin of that name is installed
        import jax.extend.backend

        jax.config.update("jax_platforms", None)
        there = ", ".join(sorted(jax.extend.backend.backends()))
        why = why_not_started(error)
        raise PlatformError(
            f"JAX_PLATFORMS = {asked}: {why or 'JAX has no such platform here'}; the platforms of this "
            f"installation: {there}. Unset the variable, or install the platform (docs/installation.md)"
        ) from error


def chosen_platforms() -> str | None:
    """The platforms that the user chose for JAX; None: JAX chooses."""
    import jax

    return os.environ.get("JAX_PLATFORMS") or jax.config.values["jax_platforms"] or None


def why_not_started(error: Exception) -> str:
    """What JAX says of a platform that does not start, without its advice."""
    return str(error).split(" (set JAX_PLATFORMS")[0].split(": Backend ")[0].strip()


def peak_memory() -> int | None:
    """Peak resident memory of this process in bytes; None if the system does not count it."""
    try:
        import resource
    except ImportError:  # on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that determine the bits of a training."""
    names = ("poise", "jax", "jaxlib", "equinox", "optax", "numpy", "gymnasium", "mujoco")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


def processor_name() -> str:
    """The model of the processor, in one line."""
    lines = dict(line.split(":", 1) for line in processor().splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in lines.items()}
    return named.get("model name") or platform.processor() or platform.machine()


def made_with() -> dict[str, Any]:
    """The fingerprint, and what it stands for in readable form."""
    return {
        "fingerprint": fingerprint(),
        "processor": processor_name(),
        "device": gpu.device_name(),
        "versions": versions(),
    }


def fingerprint() -> str:
    """A hash of everything that determines the bits of a training besides its configuration.

    Versions, system, processor, the number of threads (``poise.system.threads``), and the kind of the GPU if
    there is one that is used.
    """
    computing: list[Any] = [versions(), platform.machine(), platform.system(), processor(), num_threads()]
    computing += gpu.kinds()
    facts = json.dumps(computing, sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]
