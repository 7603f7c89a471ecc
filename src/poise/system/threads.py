"""How many threads compute: a fixed number, because the last bits of sums and products depend on it.

XLA splits the sum of a long reduction, or the inner dimension of a matrix product, among the threads of its
pool, and OpenBLAS does the same for NumPy. By default both take as many threads as the process has cores.
Then the same seed trains another agent on another machine. So poise gives XLA two threads and OpenBLAS one,
on one core and on sixty-four.
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


def start_jax() -> None:
    """Starts JAX on the CPU with two devices and ``THREADS`` threads. Changes nothing where it runs already.

    Whoever sets ``PJRT_NPROC`` chooses another number of threads. ``num_threads`` says what it is.
    """
    with contextlib.suppress(RuntimeError):  # raised where JAX runs already
        jax.config.update("jax_num_cpu_devices", THREADS)
    if VARIABLE in os.environ:
        jax.devices()
        return
    os.environ[VARIABLE] = str(THREADS)
    try:
        jax.devices()
    finally:
        del os.environ[VARIABLE]  # other processes that are started from here may use all cores


@functools.cache
def num_threads() -> int:
    """Threads of XLA's pool in this process. JAX is started where it does not run.

    Linux lists them. Elsewhere the number is what XLA would have taken.
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
    except OSError:  # it ended
        return ""


@functools.cache
def _controller() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401  JAX takes its LAPACK from there, at the first use

    return ThreadpoolController()


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """While the context is open, matrix products of NumPy and decompositions of JAX use one thread."""
    with _controller().limit(limits=1, user_api="blas"):
        yield
