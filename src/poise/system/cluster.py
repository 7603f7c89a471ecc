"""Ray: run work in processes on this machine or on a cluster, and detect when they die.

A local Ray listens only on the loopback interface, requires a token, shows no dashboard, and keeps its files
in a private folder that is removed with it. A cluster that runs already is joined as it is.
"""

import contextlib
import importlib
import importlib.util
import logging
import os
import random
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from poise.errors import PoiseError
from poise.system.cores import num_cores
from poise.system.extras import needs
from poise.system.interrupts import SIGNALS
from poise.system.keeper import clear

LOCAL = "local"
_ADDRESS = re.compile(r"local|auto|\[?[\w.:-]+\]?:[0-9]{1,5}")
_MEMORY = 2**29  # bytes of shared memory, with which a local Ray passes objects between processes
_REACH = 10.0  # seconds in which the head of a cluster must answer
_TOKEN = secrets.token_hex(32)  # for the local Rays that this process starts


class ClusterError(PoiseError):
    """A cluster cannot be joined, or lacks something that is needed."""


class LostCluster(ClusterError):
    """The local Ray that this process uses died."""

    exit_code = 1


@dataclass(frozen=True)
class Lost:
    """Instead of a result: the process that computed it is gone."""

    why: str


def checked_address(address: str | None) -> str | None:
    """``address``, if it is valid.

    Raises:
        ClusterError: it is not valid.
    """
    if address is None or _ADDRESS.fullmatch(address):
        return address
    raise ClusterError(
        f"ray = {address!r}: must be HOST:PORT of a cluster, auto for the one on this machine, or nothing to "
        "start a local one (write ENV before --ray)"
    )


def check(address: str | None) -> None:
    """Check early, before folders are made, what ``joined`` checks later.

    Raises:
        ClusterError: the address is not valid, or Ray is not installed.
    """
    if checked_address(address) is not None and importlib.util.find_spec("ray") is None:
        raise ClusterError(_missing())


def typed(address: str | None) -> str:
    """The option as it is typed, with a leading space; \"\" without a cluster."""
    return "" if address is None else " --ray" if address == LOCAL else f" --ray {shlex.quote(address)}"


_joined: str | None = None  # the address at which this process joined a cluster by ``joined``


@contextlib.contextmanager
def joined(address: str, *, processes: int | None = None) -> Iterator[None]:
    """While the context is open, this process is part of the Ray cluster at ``address``, or of a local one.

    A process that is in a cluster already stays in it, unless ``address`` names another one by HOST:PORT.

    Args:
        address: HOST:PORT, "auto" or "local".
        processes: how many processes a local Ray must have room for; None: one for each core.

    Raises:
        ClusterError: Ray is not installed, no cluster answers, or this process is in another cluster.
    """
    global _joined
    checked_address(address)
    ray = _ray()
    if ray.is_initialized():
        current = ray.get_runtime_context().gcs_address
        if address not in (LOCAL, "auto", _joined, current):
            raise ClusterError(f"ray = {address!r}: this process is in the cluster at {current} already")
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.callback(_reread_environment)  # called last, when the environment variables are restored
        stack.enter_context(_environment(_LOCAL_SETTINGS if address == LOCAL else _SETTINGS))
        _reread_environment()
        stack.enter_context(_silenced())
        actual = address
        if address == LOCAL:
            actual = stack.enter_context(_local_ray(max(num_cores(), processes or 0)))
            # Ray ends a process without a message when the raylet with this pid is gone; _watched reports it
            stack.enter_context(_environment({"RAY_RAYLET_PID": str(os.getpid())}))
            _reread_environment()
        stack.callback(ray.shutdown)
        _join(actual)
        _joined = address
        try:
            yield
        finally:
            _joined = None


_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # send no usage statistics
}
_LOCAL_SETTINGS = _SETTINGS | {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": _TOKEN,
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # makes Ray use 127.0.0.1 as the address of this machine
}


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _missing() -> str:
    return f"ray is not installed: a cluster {needs('cluster')}"


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ClusterError(_missing()) from error
    return ray


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keep Ray from reporting dead processes on standard output, which a program may read.

    Ray has no setting for that. The callers report what matters.
    """
    inner: Any = importlib.import_module("ray._private.worker")
    before, inner.print_to_stdstream = inner.print_to_stdstream, lambda *_, **__: None
    try:
        yield
    finally:
        inner.print_to_stdstream = before


def _reread_environment() -> None:
    """Make Ray read its environment variables again: it read them at its import, perhaps for another cluster.

    They decide whether it uses 127.0.0.1 as the address of this machine, and with which token it connects.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")
    inner: Any = importlib.import_module("ray._raylet")
    constants.ENABLE_RAY_CLUSTER = constants.env_bool(
        constants.ENABLE_RAY_CLUSTERS_ENV_VAR, not constants.IS_WINDOWS_OR_OSX
    )
    inner.Config.initialize("")
    inner.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _our_signals() -> Iterator[None]:
    """Restore the handlers of Ctrl-C and SIGTERM: Ray sets its own when it starts."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _join(address: str) -> None:
    ray = _ray()
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _REACH).close()
        except (OSError, OverflowError) as error:
            raise ClusterError(f"ray = {address!r}: nothing answers there: {error}") from error
    try:
        with _our_signals():
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # another version, a wrong token, no node of it on this machine, ...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ClusterError(f"ray = {address!r}: it cannot be joined: {reason}") from error


@contextlib.contextmanager
def _local_ray(cores: int) -> Iterator[str]:
    """The address of a new Ray. It ends with the context, however this process ends (``keeper``).

    Its folder is private, and has a short name: it contains sockets, whose paths are limited to about 100
    characters.
    """
    folder = tempfile.mkdtemp(prefix="poise-ray-", dir="/tmp" if os.path.isdir("/tmp") else None)
    command = [sys.executable, "-P", "-m", "poise.system.keeper", folder, str(cores), str(_MEMORY)]
    keeper = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C does not reach it
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    try:
        line = keeper.stdout.readline().strip()
        if not _ADDRESS.fullmatch(line):
            raise ClusterError(f"a local Ray did not start: {line or 'its keeper ended'}")
        with _watched(keeper.stdout):
            yield line
    finally:
        keeper.stdin.close()
        keeper.wait()
        keeper.stdout.close()
        clear(folder, {os.getpid()})  # in case the keeper failed or was killed


@contextlib.contextmanager
def _watched(keeper_output: Any) -> Iterator[None]:
    """While the context is open, notice at once if the keeper reports the death of Ray, or is gone."""
    global _death
    death = _death = Death()
    threading.Thread(target=death.wait_for, args=(keeper_output,), daemon=True).start()
    try:
        yield
    finally:
        _death = None


class Death:
    """Whether a local Ray died, and why."""

    def __init__(self) -> None:
        self.why: str | None = None
        self._died = threading.Event()

    def wait_for(self, keeper_output: Any) -> None:
        """Wait for the keeper's next line: it writes none while Ray is alive."""
        try:
            self.why = keeper_output.readline().strip() or "its keeper was killed"
        except ValueError:  # closed: this process left the cluster
            return
        self._died.set()

    def check(self, seconds: float = 0.0) -> None:
        """Wait for ``seconds`` whether it dies.

        Raises:
            LostCluster: it died.
        """
        if self._died.wait(seconds):
            raise LostCluster(
                f"the local Ray died: {self.why} (the usual cause is lack of memory); what was done is kept"
            )


_death: Death | None = None  # of the local Ray that this process is in


@contextlib.contextmanager
def _alive() -> Iterator[None]:
    """While the context is open, an error of Ray because the local Ray died becomes ``LostCluster``.

    Raises:
        LostCluster: the local Ray died.
    """
    if _death is None:
        yield
        return
    _death.check()
    try:
        yield
    except Exception:
        _death.check(1.0)
        raise


class Process:
    """An object of class ``kind`` in a process of its own, with a core. Its calls run one after the other."""

    def __init__(self, kind: type, *arguments: Any):
        actor = _ray().remote(kind).options(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")
        self._actor = actor.remote(*arguments)

    def ask(self, method: str, *arguments: Any) -> Any:
        """A promise of the result of ``method``."""
        return getattr(self._actor, method).remote(*arguments)

    def kill(self) -> None:
        with contextlib.suppress(LostCluster), _alive():
            _ray().kill(self._actor)


class Tasks:
    """Calls of ``function``, each in a process that has a core."""

    def __init__(self, function: Callable[..., Any]):
        self._function = (
            _ray().remote(function).options(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")
        )

    def ask(self, *arguments: Any) -> Any:
        """A promise of the result."""
        return self._function.remote(*arguments)


def room() -> str:
    """The cores of the cluster, in words."""
    ray = _ray()
    with _alive():
        cores, free = (r.get("CPU", 0) for r in (ray.cluster_resources(), ray.available_resources()))
    return f"{cores:.0f} cores, {free:.0f} of them free"


def share(value: Any) -> Any:
    """Put ``value`` into the shared memory of the cluster: a promise of it, for every process."""
    with _alive():
        return _ray().put(value)


def ready(promises: Sequence[Any], seconds: float) -> list[Any]:
    """The promises fulfilled within ``seconds``; returns as soon as one is."""
    ray, promises = _ray(), list(promises)
    with _alive():
        fulfilled, _ = ray.wait(promises, timeout=seconds)
        return ray.wait(promises, num_returns=len(promises), timeout=0)[0] if fulfilled else []


def answer(promise: Any) -> Any:
    """The promised result, or ``Lost``. An exception of the function is raised here.

    Raises:
        ClusterError: a machine of the cluster lacks a package or module that this one has.
        LostCluster: the local Ray died.
    """
    ray = _ray()
    try:
        with _alive():
            return ray.get(promise)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ImportError):
            raise ClusterError(f"a machine of the cluster lacks what this one has: {error.cause}") from error
        raise
    except ray.exceptions.RayError as error:
        first, *others = str(error).strip().splitlines()
        reason = others[-1] if others and "creation task" in first else first  # what its constructor raised
        return Lost(f"{type(error).__name__}: {reason}")


def interrupt(promises: Sequence[Any]) -> None:
    """Interrupt the running calls as Ctrl-C would, and cancel those that have not started."""
    with contextlib.suppress(LostCluster):
        for promise in promises:
            with _alive():
                _ray().cancel(promise, force=False, recursive=False)


def search_path() -> list[str]:
    """The module search path of this process, as absolute paths for another process."""
    return [os.path.abspath(place) for place in sys.path]


def settle_in(path: Sequence[str]) -> None:
    """In a process of a cluster: use the driver's module search path, and take a core of its own."""
    sys.path.extend(place for place in path if place not in sys.path)
    _take_core()


_CLAIM = "\0poise-core"
_core: Any = None  # the claim of this process on its core


def _take_core() -> None:
    """Bind this process to a core that no other cluster process on this machine has taken, if one is free.

    A claim is a socket with a name in memory only: it disappears with the process.
    """
    global _core
    if _core is not None or not hasattr(os, "sched_setaffinity"):
        return
    # in random order: containers on one machine do not see each other's claims
    for core in random.sample(cores := sorted(os.sched_getaffinity(0)), len(cores)):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"{_CLAIM}-{os.getuid()}-{core}")
        except OSError:
            claim.close()
            continue
        os.sched_setaffinity(0, {core})
        _core = claim
        return
