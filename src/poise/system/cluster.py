"""Ray: work in other processes of this machine or of many, and word of those that die.

A local Ray listens on the loopback interface alone, wants a token, shows no dashboard, and keeps its files in
a private folder that is removed with it. One that is there already is joined as it is.
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
_MEMORY = 2**29  # bytes of shared memory for what a local Ray passes between processes
_REACH = 10.0  # seconds in which the head of a cluster has to answer
_TOKEN = secrets.token_hex(32)  # of the local Rays of this process


class ClusterError(PoiseError):
    """A cluster that cannot be joined, or that lacks what was asked of it."""


class LostCluster(ClusterError):
    """The local Ray of this process died under it."""

    exit_code = 1


@dataclass(frozen=True)
class Lost:
    """In place of an answer: the process that was to give it is gone."""

    why: str


def checked_address(address: str | None) -> str | None:
    """``address``, if it is one.

    Raises:
        ClusterError: it is none.
    """
    if address is None or _ADDRESS.fullmatch(address):
        return address
    raise ClusterError(
        f"ray = {address!r}: must be HOST:PORT of a cluster, auto for the one of this machine, or nothing to "
        "start a local one (write ENV before --ray)"
    )


def check(address: str | None) -> None:
    """Refuses early what ``joined`` would refuse late: before folders are made.

    Raises:
        ClusterError: it is no address, or Ray is not installed.
    """
    if checked_address(address) is not None and importlib.util.find_spec("ray") is None:
        raise ClusterError(_missing())


def typed(address: str | None) -> str:
    """The option as it is typed, with a space before it; nothing where there is no cluster."""
    return "" if address is None else " --ray" if address == LOCAL else f" --ray {shlex.quote(address)}"


_joined: str | None = None  # the address at which this process joined a cluster by ``joined``


@contextlib.contextmanager
def joined(address: str, *, processes: int | None = None) -> Iterator[None]:
    """Within, this process is one of a Ray cluster: of the one at ``address``, or of a local one.

    ``processes``: how many a local one has to have room for; None: one a core. Where this process is in
    that cluster already, or in any and none is named by HOST:PORT, it stays there.

    Raises:
        ClusterError: Ray is not installed, no cluster answers, or this process is in another one.
    """
    global _joined
    checked_address(address)
    ray = _ray()
    if ray.is_initialized():
        where = ray.get_runtime_context().gcs_address
        if address not in (LOCAL, "auto", _joined, where):
            raise ClusterError(f"ray = {address!r}: this process is in the cluster at {where} already")
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.callback(_reread)  # last, when the environment is as it was
        stack.enter_context(_environment(_LOCAL_SETTINGS if address == LOCAL else _SETTINGS))
        _reread()
        stack.enter_context(_silenced())
        where = address
        if address == LOCAL:
            where = stack.enter_context(_local_ray(max(num_cores(), processes or 0)))
            # Ray ends a process without a word when the raylet of this number is gone; _watched says it
            stack.enter_context(_environment({"RAY_RAYLET_PID": str(os.getpid())}))
            _reread()
        stack.callback(ray.shutdown)
        _join(where)
        _joined = address
        try:
            yield
        finally:
            _joined = None


_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anybody
}
_LOCAL_SETTINGS = _SETTINGS | {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": _TOKEN,
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what has Ray take 127.0.0.1 for the address of this machine
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
    """Keeps Ray from telling of dead processes on standard output, which a program may read.

    There is no setting for that. What matters of it is told by those who asked for the process.
    """
    inner: Any = importlib.import_module("ray._private.worker")
    before, inner.print_to_stdstream = inner.print_to_stdstream, lambda *_, **__: None
    try:
        yield
    finally:
        inner.print_to_stdstream = before


def _reread() -> None:
    """Has Ray heed the environment as it is: it read it when it was imported, perhaps for another cluster.

    That is whether it takes 127.0.0.1 for the address of this machine or the one that others see, and what
    it shows to be let in.
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
    """Puts back what hears Ctrl-C and SIGTERM: Ray sets its own when it starts."""
    heard = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in heard.items():
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
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ClusterError(f"ray = {address!r}: it cannot be joined: {said}") from error


@contextlib.contextmanager
def _local_ray(cores: int) -> Iterator[str]:
    """The address of a Ray that ends with this, however this process ends (``keeper``).

    Its folder, which nobody else may enter, has a short name: sockets lie in it, whose paths may have about
    100 characters.
    """
    folder = tempfile.mkdtemp(prefix="poise-ray-", dir="/tmp" if os.path.isdir("/tmp") else None)
    command = [sys.executable, "-P", "-m", "poise.system.keeper", folder, str(cores), str(_MEMORY)]
    keeper = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C is not meant for it
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    try:
        said = keeper.stdout.readline().strip()
        if not _ADDRESS.fullmatch(said):
            raise ClusterError(f"a local Ray did not start: {said or 'its keeper ended'}")
        with _watched(keeper.stdout):
            yield said
    finally:
        keeper.stdin.close()
        keeper.wait()
        keeper.stdout.close()
        clear(folder, {os.getpid()})  # where the keeper could not, or was killed


@contextlib.contextmanager
def _watched(said: Any) -> Iterator[None]:
    """Within, it is known at once when the keeper says that its Ray died, or is gone itself."""
    global _death
    death = _death = Death()
    threading.Thread(target=death.wait_for, args=(said,), daemon=True).start()
    try:
        yield
    finally:
        _death = None


class Death:
    """Whether a local Ray died, and of what."""

    def __init__(self) -> None:
        self.why: str | None = None
        self._known = threading.Event()

    def wait_for(self, said: Any) -> None:
        """Reads what the keeper says next; it says nothing while all is well."""
        try:
            self.why = said.readline().strip() or "its keeper was killed"
        except ValueError:  # it was closed: this process left
            return
        self._known.set()

    def check(self, seconds: float = 0.0) -> None:
        """Waits that long for the news.

        Raises:
            LostCluster: it died.
        """
        if self._known.wait(seconds):
            raise LostCluster(
                f"the local Ray died: {self.why} (the usual cause is lack of memory); what was done is kept"
            )


_death: Death | None = None  # of the local Ray that this process is in


@contextlib.contextmanager
def _alive() -> Iterator[None]:
    """Within, an error of Ray that comes of the death of the local one says so.

    Raises:
        LostCluster: it died.
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
    """An object of ``kind`` in a process of its own with a core. It does what it is asked for in turn."""

    def __init__(self, kind: type, *arguments: Any):
        actor = _ray().remote(kind).options(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")
        self._actor = actor.remote(*arguments)

    def ask(self, method: str, *arguments: Any) -> Any:
        """A promise of what ``method`` returns."""
        return getattr(self._actor, method).remote(*arguments)

    def kill(self) -> None:
        with contextlib.suppress(LostCluster), _alive():
            _ray().kill(self._actor)


class Tasks:
    """Calls of ``function``, each in some process that has a core."""

    def __init__(self, function: Callable[..., Any]):
        self._function = (
            _ray().remote(function).options(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")
        )

    def ask(self, *arguments: Any) -> Any:
        """A promise of what it returns."""
        return self._function.remote(*arguments)


def room() -> str:
    """What the cluster has, in words."""
    ray = _ray()
    with _alive():
        cores, free = (r.get("CPU", 0) for r in (ray.cluster_resources(), ray.available_resources()))
    return f"{cores:.0f} cores, {free:.0f} of them free"


def share(value: Any) -> Any:
    """A promise of ``value``, which every process that asks for it gets from memory."""
    with _alive():
        return _ray().put(value)


def ready(promises: Sequence[Any], seconds: float) -> list[Any]:
    """Those that are kept by then; returns with the first, and with what is there beside it."""
    ray, promises = _ray(), list(promises)
    with _alive():
        kept, _ = ray.wait(promises, timeout=seconds)
        return ray.wait(promises, num_returns=len(promises), timeout=0)[0] if kept else []


def answer(promise: Any) -> Any:
    """What was promised, or ``Lost``. What its function raised is raised here.

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
        said = others[-1] if others and "creation task" in first else first  # what its making raised
        return Lost(f"{type(error).__name__}: {said}")


def interrupt(promises: Sequence[Any]) -> None:
    """Has Ctrl-C reach those that are at work, and those that are not never begin."""
    with contextlib.suppress(LostCluster):
        for promise in promises:
            with _alive():
                _ray().cancel(promise, force=False, recursive=False)


def search_path() -> list[str]:
    """Where this process finds modules, as another can use it."""
    return [os.path.abspath(place) for place in sys.path]


def settle_in(path: Sequence[str]) -> None:
    """In a process of a cluster: finds the modules that the driver finds, and takes a core of its own."""
    sys.path.extend(place for place in path if place not in sys.path)
    _take_core()


_CLAIM = "\0poise-core"
_core: Any = None  # the claim of this process on its core


def _take_core() -> None:
    """Has this process compute on one core that no other process of a cluster here has, where one is free.

    Claims are sockets that have a name in memory alone: they are gone with the process.
    """
    global _core
    if _core is not None or not hasattr(os, "sched_setaffinity"):
        return
    # in any order: containers on one machine do not see each other's claims
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
