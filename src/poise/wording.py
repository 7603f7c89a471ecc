"""Numbers and tables as people read them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from poise.counts import figure as figure

WIDTH = 44  # characters of a command that fit a telephone


def counted(count: int, noun: str) -> str:
    """``1 trial``, ``2 trials``, ``10,000 trials``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def between(low: float | None, high: float | None, reason: str | None = None) -> str:
    """An interval. A bound that is None: ``reason`` says why there is none; by default there is one seed."""
    if low is None or high is None:
        return "one seed" if reason is None else reason
    if low == high:  # of values that never differ, which say nothing about others
        return "none, all equal"
    return f"{figure(low)} to {figure(high)}"


def interval(estimate: Mapping[str, Any]) -> str:
    """That of an estimate as ``summary.json`` has it; older ones do not say why there is none."""
    return between(estimate["low"], estimate["high"], estimate.get("no_interval"))


def share(estimate: Mapping[str, Any]) -> tuple[str, str]:
    """A probability and its interval."""
    low, high = estimate["low"], estimate["high"]
    known = low is not None and high is not None
    return f"{estimate['value']:.2f}", f"{low:.2f} to {high:.2f}" if known else interval(estimate)


def continued(command: str) -> str:
    """A command for a shell, with each of its options on a line of its own where it is long."""
    if len(command) <= WIDTH or not command.startswith("poise ") or "'" in command:
        return command  # within quotes a break would change it
    return re.sub(r" (--[a-z])", r" \\\n  \1", command)
