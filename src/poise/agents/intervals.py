"""The interval of a mean that all pictures and tables show."""

import math

import numpy as np
from jaxtyping import Float


def mean_interval(
    values: Float[np.ndarray, "n *S"],
) -> tuple[Float[np.ndarray, "*S"], Float[np.ndarray, "*S"], Float[np.ndarray, "*S"]]:
    """Mean and 95% interval of the mean over the first axis: mean -+ t s / sqrt(n).

    Student's t with n - 1 degrees of freedom. The interval of a single value is infinite.
    """
    n = len(values)
    mean = np.asarray(np.mean(values, axis=0))
    if n == 1:
        return mean, np.full_like(mean, -math.inf), np.full_like(mean, math.inf)
    from scipy.special import stdtrit  # half a second of imports

    half = stdtrit(n - 1, 0.975) * np.std(values, axis=0, ddof=1) / math.sqrt(n)
    return mean, np.asarray(mean - half), np.asarray(mean + half)
