"""The intervals of a mean and of a share that all pictures and tables show."""

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


def share_interval(count: float, total: int) -> tuple[float, float]:
    """95% interval of a share, of which ``count`` of ``total`` were seen (Wilson 1927).

    All p with |count / total - p| <= z sqrt(p (1 - p) / total), z = 1.96. It is within 0 and 1, and has a
    width also where none or all were seen.
    """
    z, share = 1.959963984540054, count / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, middle - half), min(1.0, middle + half)
