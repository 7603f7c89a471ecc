"""Whole numbers as people write them."""

import re
from decimal import Decimal

_SUFFIX = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def parse_count(text: str) -> int:
    """``100000``, ``100_000``, ``100k``, ``1.5M`` and ``1e6`` as a whole number.

    Raises:
        ValueError: no number, or not a whole one.
    """
    match = re.fullmatch(
        r"([+-]?[\d_]*\.?\d+(?:e\+?\d{1,2})?)([kmg]?)", text.strip().lower().replace(",", "")
    )
    if match is None:
        raise ValueError(f"{text!r} is not a whole number such as 100000, 100_000, 100k or 1e6")
    value = Decimal(match[1].replace("_", "")) * _SUFFIX[match[2]]
    if value != value.to_integral_value():
        raise ValueError(f"{text!r} is not a whole number")
    return int(value)


def figure(value: float) -> str:
    """With one decimal from 100 on, with two below."""
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"
