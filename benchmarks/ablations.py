"""The effect of each change of a setting: the tables of docs/defaults.md, from ablations.csv.

    .venv/bin/python benchmarks/ablations.py benchmarks/ablations.csv

The settings were tried in stages. A stage has a base, and each other setting of the stage is the base with
one change, on the same seeds. The last setting of a stage that was kept is the base of the next stage.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from poise.studies.statistics import difference, improvement
from poise.studies.tables import read_table

BASES = {
    "rate": "rate: 1e-3 by the root of the budget",
    "deviation": "deviation: 1 over the root of the dimensions",
    "rollout": "rollout: budget/36, 64 steps at least, first normalized by itself",
    "staggered": "staggered: first episodes cut in turn",
    "recomputed": "recomputed: advantages anew after 5 epochs",
}
STEPS = (  # base and change, from each stage to the next
    ("first: former defaults", "budget: discount, rollouts of budget/48, rates 1e-3"),
    ("budget: discount, rollouts of budget/48, rates 1e-3", BASES["rate"]),
    (BASES["rate"], BASES["deviation"]),
    (BASES["deviation"], BASES["rollout"]),
    (BASES["rollout"], BASES["staggered"]),
    (BASES["staggered"], "staggered: minibatches of 128"),
    ("staggered: minibatches of 128", BASES["recomputed"]),
    (BASES["recomputed"], "recomputed: deviation learns faster in short budgets"),
    (BASES["recomputed"], "recomputed: minibatches of 64 from 400,000 steps on"),
)
SHORT = {"InvertedPendulum-v4": "IP", "Reacher-v4": "R", "Pendulum-v1": "P", "HalfCheetah-v4": "HC"}

Scores = Mapping[str, Mapping[tuple[str, int], Mapping[int, float]]]


def read(path: Path) -> Scores:
    """Final returns by setting, then task and budget, then seed."""
    scores: dict[str, dict[tuple[str, int], dict[int, float]]] = {}
    for row in read_table(path):
        part = row["env"], int(row["budget"])
        scores.setdefault(row["setting"], {}).setdefault(part, {})[int(row["seed"])] = float(row["return"])
    return scores


def effect(scores: Scores, base: str, change: str) -> str:
    """A row of Markdown: for each task and budget of both, the difference of means and its interval."""
    cells, pairs = [], []
    for part, changed in scores[change].items():
        seeds = sorted(changed.keys() & scores[base].get(part, {}).keys())
        if len(seeds) < 3:
            continue
        pair = np.array([changed[s] for s in seeds]), np.array([scores[base][part][s] for s in seeds])
        pairs.append(pair)
        estimate = difference(*pair)
        task = SHORT.get(part[0], part[0].removesuffix("-v4"))
        bounds = "all equal" if estimate.no_interval else f"{estimate.low:+.1f}, {estimate.high:+.1f}"
        cells.append(f"{task} {part[1] // 1000}k {estimate.value:+.1f} ({bounds}; {len(seeds)})")
    probability = improvement(pairs)
    name = change.partition(": ")[2]
    bounds = f"{probability.low:.2f} to {probability.high:.2f}"
    return f"| {name} | {'; '.join(cells)} | {probability.value:.2f} ({bounds}) |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path)
    scores = read(parser.parse_args().csv)
    head = "| change | effect (95% interval; seeds) | probability of improvement |\n|---|---|---|"
    print("Kept, each against the one before:\n", head, sep="\n")
    for base, change in STEPS:
        print(effect(scores, base, change))
    for stage, base in BASES.items():
        print(f"\nAgainst {base}:\n", head, sep="\n")
        kept = {change for _, change in STEPS}
        for change in scores:
            if change.startswith(stage + ": ") and change not in kept:
                print(effect(scores, base, change))


if __name__ == "__main__":
    main()
