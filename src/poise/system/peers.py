"""Processes, usually on several machines, that are one training: the first leads, the others do what it says.

JAX's coordination service runs in the leader. The processes meet there, and it has a table of keys and values
in which the leader writes what comes next. It also notices when a process is gone, but then it aborts the
others: an abort is answered here with one sentence and an exit code.

Nothing of this is encrypted or asks for a password.
"""

import contextlib
import ctypes
import importlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax

from poise.errors import PoiseError
from poise.system.interrupts import Guard
from poise.system.streams import without_noise

MEETING = 300  # seconds until all processes must have met
SILENCE = 30  # seconds after which a machine that is silent is lost
LEAVING = 5.0  # seconds that a process waits for the others at its end
POLL = 0.5  # seconds between two looks at whether the others are there
# what JAX and its parts say of a lost process, in many lines; after a fatal one comes a stack trace
NOISE = rb"\[Gloo\] |[EFW]\d{4} .*(coordination_service|client\.h)|The tasks have crashed"
FATAL = rb"F\d{4} .*client\.h"


class PeersError(PoiseError):
    """The processes cannot be one training."""


class LostPeer(PoiseError):
    """A process is gone. ``exit_code``: of the process that says so."""

    exit_code = 1


class Ended(PoiseError):
    """The leader has ended the training before its end."""

    exit_code = 1


class Peers:
    """The processes of a training, seen from one of them.

    Args:
        address: HOST:PORT of the leader.
        count: the number of processes.
        index: the number of this one; 0 leads.
        client: of JAX's coordination service.
    """

    def __init__(self, address: str, count: int, index: int, client: Any):
        self.address, self.count, self.index = address, count, index
        self._client: Any = client
        self._number = 0  # of messages
        self._ended = False  # the leader has said so

    @property
    def leads(self) -> bool:
        return self.index == 0

    def tell(self, message: Mapping[str, Any], data: bytes = b"") -> None:
        """The leader's next message to all, with ``data``.

        Raises:
            LostPeer: a process has left.
        """
        self._look()
        head = json.dumps(dict(message)).encode()
        self._set(f"message/{self._number}", len(head).to_bytes(8, "big") + head + data)
        if self._number >= 8:  # all have heard that: the leader waits for their results
            with contextlib.suppress(Exception):  # JAX's errors: an old message that stays does no harm
                self._client.key_value_delete(f"poise/message/{self._number - 8}")
        self._number += 1

    def hear(self) -> tuple[dict[str, Any], bytes]:
        """The next message of the leader. Waits for it.

        Raises:
            Ended: there is none anymore.
        """
        content = self._get(f"message/{self._number}")
        self._number += 1
        size = int.from_bytes(content[:8], "big")
        return json.loads(content[8 : 8 + size]), content[8 + size :]

    def answer(self, topic: str, fact: Any) -> None:
        """Says something to the leader, once for each topic."""
        self._set(f"{topic}/{self.index}", json.dumps(fact).encode())

    def answers(self, topic: str) -> list[Any]:
        """What each of the others has answered, in their order. Waits for it.

        Raises:
            LostPeer: one of them has left.
        """
        return [json.loads(self._get(f"{topic}/{index}")) for index in range(1, self.count)]

    def lost(self, error: BaseException) -> LostPeer:
        """Why a computation of all processes has failed."""
        until = time.monotonic() + 2 * POLL
        while time.monotonic() < until:
            try:
                self._look()
            except LostPeer as left:
                return left
            except PoiseError:
                break
            time.sleep(POLL / 5)
        who = "another process" if self.count > 2 else f"process {1 - self.index}"
        return LostPeer(f"{who} of the training is gone, or the network between them ({_brief(error)})")

    def _set(self, key: str, content: bytes) -> None:
        self._client.key_value_set_bytes(f"poise/{key}", content)

    def _get(self, key: str) -> bytes:
        while True:
            try:
                return self._client.blocking_key_value_get_bytes(f"poise/{key}", int(1000 * POLL))
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise self.lost(error) from error
            self._look()

    def _look(self) -> None:
        """Raises LostPeer in the leader if another process has left, and Ended in the others if it has."""
        for key, value in self._client.key_value_dir_get("poise/left/"):
            why, code = json.loads(value)
            index = int(key.rpartition("/")[2])
            if index == 0 and not self.leads:
                ended = Ended(f"process 0 has ended the training: {why}")
                ended.exit_code, self._ended = code, True
                raise ended
            if index and self.leads:
                raise LostPeer(f"process {index} has left the training: {why}")

    def leave(self, why: str, code: int, *, lost: bool = False) -> None:
        """Ends the connection, here and in the others. The processes wait for each other, but not for long.

        ``why`` and ``code``: what the others say of it, and the exit code of this process. ``lost``: not all
        of them are there anymore.
        """
        if self._client is None:
            return
        client, self._client = self._client, None
        try:
            if not self._ended:
                client.key_value_set(f"poise/left/{self.index}", json.dumps([why, code]))
            if lost or (code and not self.leads and not self._ended):  # they cannot all meet at the end
                time.sleep(2 * POLL)  # in which the others hear of it
                raise TimeoutError
            client.wait_at_barrier("poise/end", int(1000 * LEAVING))
        except Exception:  # of JAX, or the timeout above: the others are gone, so nobody is waited for
            _abandon()
            return
        jax.distributed.shutdown()


def _brief(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _abandon() -> None:
    """Leaves JAX's service as it is: to end the connection would wait for processes that are gone."""
    from jax._src import distributed

    state: Any = distributed.global_state
    for each in (state.client, state.service):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))  # never destroyed, which would wait, too
    state.client = state.service = None


@contextlib.contextmanager
def joined(address: str, count: int, index: int, guard: Guard) -> Iterator[Peers]:
    """While the context is open, this process is one of ``count`` that are one training.

    JAX must not run yet. If it ends by an error, the others are told why.

    Raises:
        PeersError: the address cannot be used.
        LostPeer: the other processes have not come.
    """
    others = "another process" if count > 2 else "process 1"
    other = others if index == 0 else f"process 0 ({address})"
    with without_noise(NOISE, FATAL) as errors:
        ending = [f"poise: not all of the {count} processes came within {MEETING} s"]
        with _aborts(lambda: guard.leave(True, f"{ending[0]}\n", 1, errors)):
            peers = _connected(address, count, index)
            ending[0] = f"poise: {other} of the training is gone, or the network between them"
            try:
                yield peers
            except BaseException as error:
                peers.leave(*_told(error, guard), lost=isinstance(error, LostPeer))
                raise
            peers.leave("it is finished", 0)


def _told(error: BaseException, guard: Guard) -> tuple[str, int]:
    """What the others are told of an error, and the exit code."""
    if isinstance(error, PoiseError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        number = signal.Signals(guard.number or signal.SIGINT)
        return "Ctrl-C" if number == signal.SIGINT else number.name, 128 + number
    return f"{type(error).__name__}: {error}", 1


def _connected(address: str, count: int, index: int) -> Peers:
    host, _, port = address.rpartition(":")
    if index == 0:
        bind = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", address)
        _check_free(bind)
        own = _own_address(host, int(port))
    else:
        bind, own = address, _reached(host, int(port))
    jax.config.update("jax_enable_preemption_service", False)  # it would handle SIGTERM
    jax.distributed.initialize(
        address,
        count,
        index,
        local_device_ids=[],
        cluster_detection_method="deactivate",
        initialization_timeout=MEETING,
        heartbeat_timeout_seconds=SILENCE,
        shutdown_timeout_seconds=SILENCE,
        coordinator_bind_address=bind,
    )
    from jax._src import distributed

    client: Any = distributed.global_state.client
    _use_gloo(client, own)
    return Peers(address, count, index, client)


def _use_gloo(client: Any, own: str) -> None:
    """CPUs exchange their arrays by Gloo, at the address ``own`` of this machine.

    By itself, Gloo would listen at the address that the machine's name has.
    """
    from jax.extend.backend import register_backend_factory

    bridge: Any = importlib.import_module("jax._src.xla_bridge")
    library: Any = importlib.import_module("jaxlib._jax")

    def make() -> Any:
        gloo = library.make_gloo_tcp_collectives(distributed_client=client, hostname=own)
        return bridge.make_cpu_client(gloo)

    register_backend_factory("cpu", make, priority=0, fail_quietly=False)


def _check_free(address: str) -> None:
    """Raises PeersError if the leader cannot listen there."""
    host, _, port = address.rpartition(":")
    try:
        kind, *_, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(kind, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(place)
            trial.listen()
    except OSError as error:
        raise PeersError(
            f"coordinator = {address!r}: process 0 cannot listen there ({error.strerror or error}); it must "
            "be an address of this machine and a free port"
        ) from error


def _own_address(host: str, port: int) -> str:
    """The address of this machine by which ``host`` is reached. Nothing is sent."""
    kind, *_, place = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(kind, socket.SOCK_DGRAM) as trial:
        trial.connect(place)
        return trial.getsockname()[0]


def _reached(host: str, port: int) -> str:
    """Waits until the leader listens. Returns the address of this machine by which it is reached."""
    until, why = time.monotonic() + MEETING, ""
    while time.monotonic() < until:
        try:
            with socket.create_connection((host.strip("[]"), port), timeout=10) as trial:
                return trial.getsockname()[0]
        except OSError as error:
            why = error.strerror or str(error)
        time.sleep(POLL)
    raise LostPeer(f"process 0 was not reached at {host}:{port} within {MEETING} s ({why})")


@contextlib.contextmanager
def _aborts(answer: Callable[[], None]) -> Iterator[None]:
    """While the context is open, ``answer`` is called where a C library aborts the process, in its thread."""
    try:
        libc = ctypes.CDLL(None)
        handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: answer())
        libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
        install = partial(libc.signal, int(signal.SIGABRT))
        before = install(ctypes.cast(handler, ctypes.c_void_p))
    except (TypeError, OSError, AttributeError):  # on Windows
        yield
        return
    try:
        yield
    finally:
        install(before)
