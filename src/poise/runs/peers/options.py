"""The options of a training in several processes: how it is executed, not what it computes."""

import re
from dataclasses import dataclass
from typing import Annotated

from poise.checked import Bound, Checked, ConfigError

MOST = 1024  # processes
_ADDRESS = re.compile(r"\[?[\w.:-]+\]?:[0-9]{1,5}")


@dataclass(frozen=True, kw_only=True)
class PeerOptions(Checked):
    """Several processes that are one training. Each runs the same command with its own ``process``."""

    coordinator: str | None = None
    """HOST:PORT at which the processes of one training on several machines meet: an address of the machine of
    process 0, and a free port there. Only for a private network: the port asks for no password
    (docs/scale.md). None: one process."""
    processes: Annotated[int, Bound(ge=2, le=MOST)] | None = None
    """With --coordinator: the number of processes. Each has the same share of the --devices. Does not affect
    the result. None: one."""
    process: Annotated[int, Bound(ge=0, le=MOST - 1)] | None = None
    """With --coordinator: the number of this process, from 0. Process 0 has the run folder. None: not set."""

    @property
    def others(self) -> bool:
        """Whether there are other processes.

        Raises:
            ConfigError: an option is missing, or has no effect without another.
        """
        if self.coordinator is None:
            for name in ("processes", "process"):
                if (value := getattr(self, name)) is not None:
                    raise ConfigError(f"{name} = {value}: has no effect without coordinator")
            return False
        if not _ADDRESS.fullmatch(self.coordinator) or int(self.coordinator.rpartition(":")[2]) > 65535:
            raise ConfigError(f"coordinator = {self.coordinator!r}: must be HOST:PORT of process 0")
        if self.processes is None or self.process is None:
            missing = "processes" if self.processes is None else "process"
            raise ConfigError(f"coordinator = {self.coordinator!r}: needs {missing}, too")
        if self.process >= self.processes:
            raise ConfigError(f"process = {self.process}: must be below {self.processes}, the processes")
        return True

    def typed(self) -> str:
        """The options as they are typed, with a leading space."""
        return f" --coordinator {self.coordinator} --processes {self.processes} --process {self.process}"
