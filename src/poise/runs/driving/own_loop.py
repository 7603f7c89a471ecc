"""A training whose loop is the user's own code, with everything around it that ``train`` has."""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from poise.errors import PoiseError
from poise.runs.driving.stops import Left
from poise.runs.reacting import Run, Session, end_by
from poise.training.iteration import Progress


class LoopError(PoiseError):
    """An own loop is not written as ``poise.session`` needs it."""


class OwnLoop:
    """The training that ``poise.session`` opens: to iterate over, and then its run.

    Iterating yields a ``Progress`` after each iteration, once its rows are written. To leave the loop, by
    ``break``, ends the training there. At the end of the ``with`` block, the run is complete: checkpoint,
    score, video and summary. An error in the block, or Ctrl-C, ends it with a checkpoint of the last
    iteration, as in ``poise.train``, and is raised.

    Attributes:
        run: the finished run.
    """

    def __init__(self, session: Session, tell: Callable[[Run], Run]):
        self._session, self._tell = session, tell
        self._run: Run | None = None
        self._entered = self._began = self._failed = False

    @property
    def run(self) -> Run:
        """The finished run.

        Raises:
            LoopError: the ``with`` block has not ended, or no iteration was asked for in it.
        """
        if self._run is None:
            raise LoopError("run: there is none before the end of the with block, or without an iteration")
        return self._run

    def __enter__(self) -> Self:
        """
        Raises:
            LoopError: it was opened before, and has ended.
        """
        if self._failed or self._run is not None:
            raise LoopError("session: has ended; make a new one, with run_dir to continue the same training")
        self._entered = True
        return self

    def __iter__(self) -> Iterator[Progress]:
        """
        Raises:
            LoopError: it is not in a ``with`` block, or an error has ended it.
        """
        if self._failed:
            raise LoopError("session: an error has ended it; make a new one")
        if not self._entered:
            raise LoopError("session: must be opened by: with poise.session(...) as session")
        self._began = True
        while self._run is None:
            if (progress := self._advance(None)) is not None:
                yield progress

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered = False
        if error is not None:
            self._failed = True
            end_by(self._session, error)
        elif self._began and not self._failed:  # an error of the training may have been caught in the block
            answer: Left | None = Left()
            while self._run is None:
                self._advance(answer)
                answer = None
            self._tell(self._run)

    def _advance(self, answer: Left | None) -> Progress | None:
        """Trains until there is something to see. ``run`` is set at the end."""
        try:
            return self._session.send(answer)
        except StopIteration as end:
            self._run = end.value
            return None
        except BaseException:
            self._failed = True
            raise
