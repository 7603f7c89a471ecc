"""What takes the finished iterations of a training."""

from abc import ABC, abstractmethod

from poise.agents.evaluation import Evaluation
from poise.training.iteration import Progress


class Writer(ABC):
    """Takes each finished iteration. The recorder calls its writers one after the other, in a fixed order.

    No interrupt stops an iteration between two writers.
    """

    @abstractmethod
    def write(self, progress: Progress, greedy: Evaluation | None) -> None:
        """Takes an iteration. ``greedy``: the greedy score of its agent, where one was due."""

    def close(self) -> None:  # noqa: B027 (most writers hold nothing open)
        """Releases what is open. May be called twice."""


class Log(Writer):
    """A file that grows by each iteration.

    A checkpoint stores its length, and a training that resumes there cuts it back to that. So at the end of
    ``write`` the system has all its bytes.
    """

    @abstractmethod
    def sync(self) -> None:
        """Waits until the bytes that were written are on the disk."""
