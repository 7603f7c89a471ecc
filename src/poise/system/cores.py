"""The number of cores that this process may use."""

import os


def num_cores() -> int:
    """The cores of the process's affinity if the system has one, otherwise those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
