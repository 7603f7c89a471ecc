"""Medians over parts of a training, which the rules of ``poise doctor`` read."""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float

from poise.runs.records import Record
from poise.training.metrics import BY_NAME, base_name


def late(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    """The last quarter."""
    return values[-max(1, len(values) // 4) :]


def median(values: Float[np.ndarray, " n"]) -> float:
    """The median of the finite values; NaN, for which every comparison is false, if there are none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else math.nan


def beyond(record: Record, name: str, side: Literal["low", "high"]) -> float | None:
    """The late median of a metric if it is outside its healthy range on this side, otherwise None."""
    value = median(late(record.column(name)))
    metric = BY_NAME[base_name(name)]
    return value if math.isfinite(value) and metric.state({metric.name: value}) == side else None


def since(record: Record) -> str:
    """The range of steps of the last quarter, in words."""
    steps = late(record.steps)
    return f"from step {steps[0]:,.0f} to {steps[-1]:,.0f}"
