"""A finding about a training or an environment, as people, pages and programs read it."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One problem, or one thing worth knowing.

    Attributes:
        rule: the name of the rule, words with hyphens.
        severity: "error": the result is wrong or would be; "warning": it is probably worse than it could be;
            "note": worth knowing.
        seen: the facts, with figures.
        meaning: what follows from them.
        fix: what to do; a command if there is one.
    """

    rule: str
    severity: Severity
    seen: str
    meaning: str
    fix: str

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def lines(self) -> list[str]:
        """As text for people."""
        return [f"{self.severity}: {self.rule}", *(f"  {t}" for t in (self.seen, self.meaning, self.fix))]


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """The most severe first; the order within a severity stays."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
