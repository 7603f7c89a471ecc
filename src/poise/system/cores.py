"""How many processors this process may use."""

import os


def num_cores() -> int:
    """Those of the process's affinity where the system knows one, otherwise the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
