"""A line now and then while something lasts, so that nobody has to ask whether it still works."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SILENCE = 5.0  # seconds without a line after which there is one
LOOKING = 0.5  # seconds between two looks at the clock


class Pulse:
    """Says again what is being done where nothing was said for ``SILENCE`` seconds.

    Args:
        say: shows a line.
        share: of the time that has passed since the start, which the silence may last as well: a training of
            hours does not need a line every 5 seconds. 0: it does.
    """

    def __init__(self, say: Callable[[str], None], share: float = 0.0):
        self._say, self.share = say, share
        self._doing, self._lock = "", threading.Lock()
        self._start = self._since = self._heard = time.monotonic()

    def doing(self, text: str) -> None:
        """What is being done from here on; "": nothing that needs a line."""
        if text != self._doing:
            with self._lock:
                self._doing, self._since = text, time.monotonic()

    def heard(self) -> None:
        """Something was said."""
        self._heard = time.monotonic()

    def beat(self) -> None:
        """A line, where it is time."""
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
        """Within, another thread calls ``beat`` again and again."""
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
    """Within, ``text`` is said every few seconds, and nothing where it does not last so long."""
    pulse = Pulse(say)
    pulse.doing(text)
    with pulse.beating():
        yield pulse
