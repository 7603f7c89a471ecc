"""A line from time to time during long work, so that the user sees that it still runs."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SILENCE = 5.0  # seconds without a line after which there is one
LOOKING = 0.5  # seconds between two checks of the time


class Pulse:
    """Shows what is being done if no line was shown for ``SILENCE`` seconds.

    Args:
        say: shows a line.
        share: the silence may also last this share of the time since the start, because a training of hours
            needs no line every 5 seconds. 0: always ``SILENCE``.
    """

    def __init__(self, say: Callable[[str], None], share: float = 0.0):
        self._say, self.share = say, share
        self._doing, self._lock = "", threading.Lock()
        self._start = self._since = self._heard = time.monotonic()

    def doing(self, text: str) -> None:
        """Set what is being done from now on; "": nothing that needs a line."""
        if text != self._doing:
            with self._lock:
                self._doing, self._since = text, time.monotonic()

    def heard(self) -> None:
        """A line was shown by somebody else."""
        self._heard = time.monotonic()

    def beat(self) -> None:
        """Show a line if it is time for one."""
        now = time.monotonic()
        with self._lock:
            if not self._doing or now - self._heard < max(SILENCE, self.share * (now - self._start)):
                return
            lasting = now - self._since
            ago = f" ({lasting:.0f} s)" if lasting >= SILENCE else ""
            self._heard = now
            line = self._doing + ago
        self._say(line)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """While the context is open, another thread calls ``beat`` regularly."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(LOOKING):
                self.beat()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@contextmanager
def announced(text: str, say: Callable[[str], None]) -> Iterator[Pulse]:
    """While the context is open, show ``text`` every ``SILENCE`` seconds."""
    pulse = Pulse(say)
    pulse.doing(text)
    with pulse.beating():
        yield pulse
