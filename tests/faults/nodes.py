"""A Ray cluster of two nodes on one machine: processes that listen on the loopback interface alone.

As a command it is ``ray``, which takes 127.0.0.1 for this machine's address.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

LOOPBACK = "127.0.0.1"
PATIENCE = 60.0


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def below(root: int) -> list[int]:
    """The processes that ``root`` started, and those that they started."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(path.name)] = parent_of(int(path.name))
    found, fresh = [], [root]
    while fresh:
        fresh = [pid for pid, parent in parents.items() if parent in fresh]
        found += fresh
    return found


def named(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Node:
    """The processes of one node."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path):
        command = [sys.executable, __file__, "start", "--block", "--disable-usage-stats", *arguments]
        self._log = log
        with log.open("w") as file:
            self._popen = subprocess.Popen(
                command, env=environment, stdout=file, stderr=file, start_new_session=True, cwd=log.parent
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def wait_until_up(self) -> None:
        until = time.monotonic() + PATIENCE
        while "runtime started" not in self._log.read_text():
            if time.monotonic() > until or self._popen.poll() is not None:
                raise RuntimeError(f"the node does not come up: {self._log.read_text()[-500:]}")
            time.sleep(0.1)

    @property
    def pids(self) -> list[int]:
        return below(self._popen.pid)

    def workers(self) -> list[int]:
        """Processes that are at work: those of a task or an actor of poise."""
        return [pid for pid in self.pids if named(pid).startswith(("ray::_work_on_cluster", "ray::_Worker"))]

    def kill(self) -> None:
        """As a machine that loses its power."""
        kill([*self.pids, self._popen.pid])
        self._popen.wait()


class Cluster:
    """A head and a second node, each with so many cores, as Ray counts them."""

    def __init__(self, folder: Path, cores: int = 1):
        self._folder, self._cores = folder, cores
        with socket.socket() as free:
            free.bind((LOOPBACK, 0))
            self.address = f"{LOOPBACK}:{free.getsockname()[1]}"
        settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        settings |= {"RAY_USAGE_STATS_ENABLED": "0"}
        # a dead node is missed after two seconds instead of twenty
        settings |= {"RAY_health_check_period_ms": "500", "RAY_health_check_timeout_ms": "1000"}
        self.environment = os.environ | settings | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        self._node_environment = os.environ | settings
        port = self.address.rpartition(":")[2]
        self.head = self._start(
            "head",
            "--head",
            f"--port={port}",
            "--include-dashboard=false",
            f"--temp-dir={folder / 'r'}",
        )
        self.head.wait_until_up()
        self.second = self.another()
        self.second.wait_until_up()

    def another(self) -> Node:
        return self._start("second", f"--address={self.address}")

    def _start(self, name: str, *arguments: str) -> Node:
        usual = [f"--num-cpus={self._cores}", "--num-gpus=0", f"--node-ip-address={LOOPBACK}"]
        memory = [f"--object-store-memory={2**27}"]
        return Node([*arguments, *usual, *memory], self._node_environment, self._folder / f"{name}.log")

    def at_work(self) -> list[int]:
        return [*self.head.workers(), *self.second.workers()]

    def kill(self) -> None:
        self.second.kill()
        self.head.kill()


@contextlib.contextmanager
def cluster(cores: int = 1) -> Iterator[Cluster]:
    """Two nodes within; afterwards none of their processes and none of their files."""
    folder = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))  # a socket's path may have 107 characters
    made = None
    try:
        made = Cluster(folder, cores)
        yield made
    finally:
        if made is not None:
            made.kill()
        shutil.rmtree(folder, ignore_errors=True)


def typed(arguments: list[str]) -> None:
    """``ray`` as a page has it: ``start`` and ``stop`` of nodes that are known by the file ``$NODES``."""
    known = Path(os.environ["NODES"])
    match arguments:
        case ["start", *options]:
            settings = dict(os.environ)
            settings.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)
            place = [f"--temp-dir={known.parent / 'r'}"] if "--head" in options else []
            usual = [f"--node-ip-address={LOOPBACK}", f"--object-store-memory={2**27}", "--num-gpus=0"]
            log = known.with_name(f"{len(known.read_text().split())}.log")
            node = Node([*options, *place, *usual], settings, log)
            with known.open("a") as file:
                print(node.pid, file=file)
            node.wait_until_up()
        case ["stop"]:
            for pid in map(int, known.read_text().split()):
                kill([*below(pid), pid])
        case _:
            sys.argv[1:] = arguments
            _ray()


def _ray() -> None:
    import ray._private.services
    from ray.scripts.scripts import main

    ray._private.services.node_ip_address_from_perspective = lambda address=None: LOOPBACK
    sys.argv[0] = "ray"
    main()


if __name__ == "__main__":
    _ray()
