"""What a look at a training or an environment finds, in a form that a person, a page and a test can read."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed.

    Attributes:
        rule: its name, one or two words with hyphens; the same at every finding of that rule.
        severity: "error" where the result is wrong or would be, "warning" where it probably is worse than it
            could be, "note" where it is only worth knowing.
        seen: the facts: numbers, steps.
        meaning: what follows from them, in a sentence.
        fix: what to try; a command where one does it.
    """

    rule: str
    severity: Severity
    seen: str
    meaning: str
    fix: str

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def lines(self) -> list[str]:
        """What a person reads."""
        return [f"{self.severity}: {self.rule}", *(f"  {t}" for t in (self.seen, self.meaning, self.fix))]


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """The gravest first; those of one severity in the order given."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
