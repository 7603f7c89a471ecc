"""A fixed number of computing threads, because the last bits of sums and products depend on it.

XLA splits the sum of a long reduction, or the inner dimension of a matrix product, among the threads of its
pool, and OpenBLAS does the same for NumPy. By default both use as many threads as the process has cores, so
the same seed would train a different agent on another machine. poise gives XLA two threads and OpenBLAS one,
on any number of cores.
"""

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import jax
from threadpoolctl import ThreadpoolController

from poise.system.cores import num_cores

THREADS = 2  # of XLA's pool: policy and value learn at the same time, each on a device of one thread
VARIABLE = "PJRT_NPROC"  # what XLA reads for the size of its pool when it starts


def start_jax(devices: int = THREADS) -> None:
    """Start JAX on the CPU with two devices and ``THREADS`` threads. No effect if JAX runs already.

    ``devices``: more, each with a thread, for groups of environments that learn on several.

    The variable ``PJRT_NPROC``, if set, chooses another number of threads; ``num_threads`` returns it.
    """
    with contextlib.suppress(RuntimeError):  # raised if JAX runs already
        jax.config.update("jax_num_cpu_devices", max(devices, THREADS))
    if VARIABLE in os.environ:
        jax.devices()
        return
    os.environ[VARIABLE] = str(max(devices, THREADS))
    try:
        jax.devices()
    finally:
        del os.environ[VARIABLE]  # child processes may use all cores


@functools.cache
def num_threads() -> int:
    """The number of threads of XLA's pool in this process. Starts JAX if it does not run.

    Counted on Linux. On other systems it is the number that XLA chooses by its rules.
    """
    start_jax()
    tasks = Path("/proc/self/task")
    if tasks.is_dir():
        names = [_name(task) for task in tasks.iterdir()]
        return names.count("tf_XLAEigen")
    chosen = os.environ.get(VARIABLE) or os.environ.get("NPROC") or str(num_cores())
    return max(int(chosen), jax.local_device_count("cpu"))


def _name(task: Path) -> str:
    try:
        return (task / "comm").read_text().strip()
    except OSError:  # the thread ended
        return ""


@functools.cache
def _controller() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401  JAX loads its LAPACK from there, at the first use

    return ThreadpoolController()


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """While the context is open, NumPy's matrix products and JAX's decompositions use one thread."""
    with _controller().limit(limits=1, user_api="blas"):
        yield
