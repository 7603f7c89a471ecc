"""Wall time, and the part of it that JAX spent compiling."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax.monitoring

# what JAX reports after tracing a function, lowering it and compiling it
_COMPILING = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


class Instant(NamedTuple):
    """Seconds since an arbitrary start: of the wall clock, and of compilation alone."""

    wall: float
    compiling: float

    def since(self, before: "Instant") -> float:
        """Seconds since then without those of compilation."""
        return self.wall - before.wall - (self.compiling - before.compiling)


class Clock:
    """Sums the durations that JAX reports after each compilation."""

    def __init__(self) -> None:
        self._compiling = 0.0
        self._watching = ThreadPoolExecutor(1, "poise-clock")  # in the order of the calls
        # a call that compiles says nothing of it: this is how JAX reports it
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def now(self) -> Instant:
        return Instant(time.perf_counter(), self._compiling)

    def when(self, arrays: Any) -> "Future[Instant]":
        """The instant at which arrays are computed, whatever this thread does meanwhile.

        Compilations in the meantime are not in it: they did not delay the arrays.
        """
        return self._watching.submit(self._wait, arrays, self._compiling)

    def _wait(self, arrays: Any, compiling: float) -> Instant:
        jax.block_until_ready(arrays)
        return Instant(time.perf_counter(), compiling)

    def close(self) -> None:
        self._watching.shutdown(wait=False, cancel_futures=True)
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event in _COMPILING:
            self._compiling += duration_secs
