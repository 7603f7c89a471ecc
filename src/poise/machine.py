"""What decides the bits of a training beside its configuration, and the memory that it takes."""

import hashlib
import importlib.metadata
import json
import platform
import sys
from typing import Any

from poise.compiled import processor
from poise.threads import num_threads


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

    Versions, processor, and the number of threads where it is not the usual one (``poise.threads``).
    """
    computing = [versions(), platform.machine(), platform.system(), processor(), num_threads()]
    facts = json.dumps(computing, sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]
