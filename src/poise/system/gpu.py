"""The GPU that JAX could use, found without starting JAX; and the one that it computes on."""

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import re
from typing import Any

from poise.system.extras import needs

DEVICE_FILES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")  # JAX looks for the same; the last is of WSL
PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")


def is_present() -> bool:
    """Whether this machine has an NVIDIA GPU, whatever is installed."""
    return any(map(os.path.exists, DEVICE_FILES))


def missing() -> str | None:
    """Why JAX can have no GPU in this process, as half a sentence; None if it should have one."""
    if not is_present():
        return f"this machine has no NVIDIA GPU (no {DEVICE_FILES[0]})"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU"
    plugin = next((name for name in PLUGINS if importlib.util.find_spec(name) is not None), None)
    if plugin is None:
        return f"JAX has no CUDA package here; it {needs('cuda')}"
    return _mismatch(plugin.replace("_", "-"))


def _mismatch(package: str) -> str | None:
    """JAX does not use a CUDA package of another version than its own."""
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    jaxlib = importlib.metadata.version("jaxlib")
    if _digits(version) == _digits(jaxlib):
        return None
    return f"{package} {version} does not fit jaxlib {jaxlib}; it {needs('cuda')}"


def _digits(version: str) -> str:
    """0.10.2 of 0.10.2.dev1+cuda13."""
    found = re.match(r"\d+(\.\d+)*", version)
    return found[0] if found else version


def jax_runs() -> bool:
    """Whether JAX has started in this process. Then its platform cannot be chosen anymore."""
    inner: Any = importlib.import_module("jax._src.xla_bridge")
    return inner.backends_are_initialized()


@functools.cache
def kinds() -> tuple[str, ...]:
    """What JAX computes on, as ("NVIDIA H100 80GB HBM3",); empty on a CPU. Starts JAX if it does not run."""
    import jax

    return tuple(sorted({device.device_kind for device in jax.devices() if device.platform != "cpu"}))


def device_name() -> str:
    """The same as a word or several; ``cpu`` on a CPU."""
    return ", ".join(kinds()) or "cpu"
