"""How speed and memory change with the number of environments, the networks, the epochs and the rollout.

    .venv/bin/python benchmarks/scaling.py benchmarks/scaling.csv
    .venv/bin/python benchmarks/scaling.py benchmarks/scaling.csv --draw docs/images/scaling.png

Each row is one training in its own process, followed by the limits, as ``poise bench`` measures them: seed 0,
after one training that fills the caches. Rows that the file has are not run again.
"""

import argparse
import csv
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median

from poise.config import PPO, Config, Policy, Value
from poise.studies.bench import Bench, measure

STEPS = 100_000
LONG = PPO(num_steps=128, minibatch_size=64, recompute_every=None)  # the same work for every budget
PARTS = ("acting", "physics", "preparing", "learning")
COLUMNS = (
    "curve",
    "task",
    "value",
    "round",
    "steps",
    "steps_per_second",
    *(f"{part}_us" for part in PARTS),  # microseconds of a step
    "limit",
    "threads",
    "memory_mb",
)


def environments(value: int) -> Config:
    return Config(num_envs=value, total_steps=max(STEPS, 6 * 128 * value), ppo=LONG)


def width(value: int) -> Config:
    return replace(
        Config(num_envs=16, total_steps=STEPS if value < 256 else STEPS // 4, ppo=LONG),
        policy=Policy(hidden=(value, value)),
        value=Value(hidden=(value, value)),
    )


def epochs(value: int) -> Config:
    return Config(num_envs=16, total_steps=STEPS, ppo=replace(LONG, num_epochs=value))


def rollout(value: int) -> Config:
    """64 environments and one epoch: most of the memory is the rollout."""
    return Config(num_envs=64, total_steps=2 * value, ppo=PPO(num_steps=value // 64, num_epochs=1))


WORK = [
    ("environments", environments, "InvertedPendulum-v5", [1, 4, 16, 64, 256, 1024]),
    ("width", width, "InvertedPendulum-v5", [32, 64, 128, 256, 512]),
    ("epochs", epochs, "InvertedPendulum-v5", [1, 5, 10, 20, 40]),
    ("rollout", rollout, "InvertedPendulum-v5", [2**k for k in range(11, 20, 2)]),
    ("rollout", rollout, "Ant-v5", [2**k for k in range(11, 16, 2)]),
]


def rows(measured: Bench) -> list[list[str]]:
    """One row of the table for each round."""
    cells = []
    for r in measured.rounds:
        round_alone = replace(measured, rounds=[r])
        a_step = {name: 1e6 * seconds / r.steps for name, seconds in round_alone.parts().items()}
        threads, _ = round_alone.physics
        cells.append(
            [
                str(r.steps),
                f"{r.steps_per_second:.0f}",
                *(f"{a_step[part]:.3f}" for part in PARTS),
                f"{round_alone.limit:.0f}",
                str(threads),
                f"{(r.memory or 0) / 1e6:.0f}",
            ]
        )
    return cells


def run(path: Path, rounds: int) -> None:
    finished = set()
    if path.exists():
        finished = {(r["curve"], r["task"], int(r["value"])) for r in read(path)}
    with path.open("a", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        if not finished:
            table.writerow(COLUMNS)
        for curve, configure, task, values in WORK:
            for value in values:
                if (curve, task, value) in finished:
                    continue
                # memory is the same in each round
                number = 1 if curve == "rollout" else rounds
                measured = measure(task, configure(value), "auto", rounds=number, file=sys.stderr)
                for index, row in enumerate(rows(measured)):
                    table.writerow([curve, task, value, index, *row])
                file.flush()
                print(curve, task, value, f"{measured.steps_per_second:,.0f} steps/s", flush=True)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def medians(table: list[dict[str, str]], curve: str, task: str) -> dict[int, dict[str, float]]:
    """The median of each column over the rounds, for each value of a curve."""
    by_value = defaultdict(list)
    for row in table:
        if (row["curve"], row["task"]) == (curve, task):
            by_value[int(row["value"])].append(row)
    numbers = COLUMNS[COLUMNS.index("steps") :]
    return {v: {n: median(float(r[n]) for r in rounds) for n in numbers} for v, rounds in by_value.items()}


def draw(table: list[dict[str, str]], path: Path) -> None:
    """Four panels: what a step costs against environments, width and epochs; memory against the rollout."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    colors = dict(zip(PARTS, ("#9db4c8", "#14507a", "#d9c8a0", "#c2571a"), strict=True))
    figure = Figure(figsize=(11, 8), dpi=150, layout="constrained")
    panels = figure.subplots(2, 2)
    titles = {
        "environments": "environments, 128 steps each",
        "width": "units in each of two hidden layers, 16 environments",
        "epochs": "epochs, 16 environments",
    }
    for axes, (curve, title) in zip(panels.flat[:3], titles.items(), strict=True):
        columns = medians(table, curve, "InvertedPendulum-v5")
        bottom = [0.0] * len(columns)
        places = range(len(columns))
        for part in PARTS:
            height = [m[f"{part}_us"] for m in columns.values()]
            axes.bar(places, height, bottom=bottom, width=0.7, color=colors[part], label=part)
            bottom = [b + h for b, h in zip(bottom, height, strict=True)]
        limits = [1e6 / m["limit"] for m in columns.values()]
        axes.plot(places, limits, "o-", color="0.1", markersize=4, linewidth=1, label="limit of the machine")
        for place, m, height in zip(places, columns.values(), bottom, strict=True):
            axes.annotate(
                f"{m['steps_per_second'] / 1e3:.1f}k",
                (place, height),
                ha="center",
                va="bottom",
                fontsize=8,
            )
        axes.set_xticks(places, [f"{v:,}" for v in columns])
        axes.set_xlabel(title)
        axes.set_ylabel("microseconds a step")
        axes.set_title(f"by {curve}; above the bars: steps a second", loc="left", fontsize=11)
    panels[0, 0].legend(frameon=False, fontsize=9)
    axes = panels[1, 1]
    for task, color in (("InvertedPendulum-v5", "#14507a"), ("Ant-v5", "#c2571a")):
        columns = medians(table, "rollout", task)
        axes.plot(list(columns), [m["memory_mb"] for m in columns.values()], "o-", color=color, label=task)
    axes.set_xscale("log", base=2)
    axes.set_ylim(0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.set_xlabel("steps in a rollout, 64 environments")
    axes.set_ylabel("resident memory at its peak (MB)")
    axes.set_title("by rollout: memory", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=9)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--draw", type=Path, metavar="PNG", help="draw the table, measure nothing")
    args = parser.parse_args()
    if args.draw:
        draw(read(args.csv), args.draw)
    else:
        run(args.csv, args.rounds)


if __name__ == "__main__":
    main()
