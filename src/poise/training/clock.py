"""Wall time, and the part of it that JAX spent compiling."""

import time
from typing import NamedTuple

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
        # a call that compiles says nothing of it: this is how JAX reports it
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def now(self) -> Instant:
        return Instant(time.perf_counter(), self._compiling)

    def close(self) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event in _COMPILING:
            self._compiling += duration_secs
