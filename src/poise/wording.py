"""Numbers, layers, schedules and tables as people write and read them."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

WIDTH = 44  # characters of a command that fit on a telephone
_SUFFIX = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
# digits as in Python (1_000_000), or with commas in groups of three (1,000,000): 64,64 is not one number
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+(?:_\d+)*)"
_NUMBER = re.compile(rf"([+-]?(?:{_DIGITS}(?:\.\d+)?|\.\d+)(?:e\+?\d{{1,2}})?)([kmg]?)")
_SEPARATOR = re.compile(r"\s*[,x]\s*|\s+")


def parse_count(text: str) -> int:
    """``100000``, ``100_000``, ``100,000``, ``100k``, ``1.5M`` and ``1e6`` as a whole number.

    Raises:
        ValueError: not a number, or not a whole one.
    """
    match = _NUMBER.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is not a whole number such as 100000, 100_000, 100k or 1e6")
    value = Decimal(re.sub("[_,]", "", match[1])) * _SUFFIX[match[2]]
    if value != value.to_integral_value():
        raise ValueError(f"{text!r} is not a whole number")
    return int(value)


def parse_number(text: str) -> float:
    """A number as Python writes it, or as ``parse_count`` reads it: ``-0.5``, ``1e-4``, ``500k``, ``1,000``.

    Raises:
        ValueError: not a number.
    """
    match = _NUMBER.fullmatch(text.strip().lower())
    if match is not None:
        return float(Decimal(re.sub("[_,]", "", match[1])) * _SUFFIX[match[2]])
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number such as 0.5, 1e-4, 500 or 500k") from None


def figure(value: float) -> str:
    """A return as text: one decimal from 100 on, two below, three below 1."""
    size = abs(value)
    return f"{value:.1f}" if size >= 100 else f"{value:.2f}" if size >= 1 or size == 0 else f"{value:.3f}"


def counted(count: int, noun: str) -> str:
    """``1 trial``, ``2 trials``, ``10,000 trials``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def parse_layers(text: str) -> tuple[int, ...]:
    """``64 64``, ``64,64``, ``64x64`` and ``[64, 64]`` as two layers of 64 units.

    A comma separates layers here, also in ``512,256``, which would be one number elsewhere.

    Raises:
        ValueError: not whole numbers with one kind of separator between them.
    """
    plain = text.strip().lower()
    if (plain[:1], plain[-1:]) in (("[", "]"), ("(", ")")):
        plain = plain[1:-1].strip().removesuffix(",")  # (64,) is how Python writes one layer
    separators = {separator.strip() for separator in _SEPARATOR.findall(plain)}
    try:
        if len(separators) > 1:
            raise ValueError("two kinds of separators")
        return tuple(_parse_width(part) for part in _SEPARATOR.split(plain))
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not a list of layers: write the units of each as 64x64, 64,64 or 64 64, "
            "and large numbers without commas"
        ) from error


def parse_schedule(text: str) -> tuple[tuple[float, float], ...]:
    """``0:1,0.5:1,1:0.1`` as pairs: a share of the budget, and the factor that holds there.

    Raises:
        ValueError: not such pairs, their shares do not increase from 0 or more to 1 or less, or a factor is
            negative or not finite.
    """
    try:
        pairs = tuple((float(x), float(y)) for x, y in (pair.split(":") for pair in text.split(",")))
        rises = all(before < after for (before, _), (after, _) in itertools.pairwise(pairs))
        if not rises or not all(0 <= share <= 1 and 0 <= factor < math.inf for share, factor in pairs):
            raise ValueError("out of range")
    except ValueError as error:
        raise ValueError(
            "pairs SHARE:FACTOR such as 0:1,0.5:1,1:0.1, with shares that increase within 0 to 1 and "
            "factors >= 0"
        ) from error
    return pairs


def _parse_width(text: str) -> int:
    """The units of one layer. Refuses 024, the end of 1,024, and 64_64, which does not mean 6464."""
    width = parse_count(text)
    if re.match(r"[+-]?0\d", text) or ("_" in text and text != f"{width:_}"):
        raise ValueError(f"{text!r} is not a width")
    return width


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table as lines: the first column aligned to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def between(low: float | None, high: float | None, reason: str | None = None) -> str:
    """An interval as text. Without bounds, the ``reason`` why there is none; by default a single seed."""
    if low is None or high is None:
        return "one seed" if reason is None else reason
    if low == high:  # equal values say nothing about other seeds
        return "none, all equal"
    return f"{figure(low)} to {figure(high)}"


def interval(estimate: Mapping[str, Any]) -> str:
    """The interval of an estimate in ``summary.json``; files without ``no_interval`` give no reason."""
    return between(estimate["low"], estimate["high"], estimate.get("no_interval"))


def share(estimate: Mapping[str, Any]) -> tuple[str, str]:
    """A probability and its interval as text."""
    low, high = estimate["low"], estimate["high"]
    has_interval = low is not None and high is not None
    return f"{estimate['value']:.2f}", f"{low:.2f} to {high:.2f}" if has_interval else interval(estimate)


def continued(command: str) -> str:
    """A command for a shell; a long one with each of its options on its own line."""
    if len(command) <= WIDTH or not command.startswith("poise ") or "'" in command:
        return command  # a line break inside quotes would change the command
    return re.sub(r" (--[a-z])", r" \\\n  \1", command)
