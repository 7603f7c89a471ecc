"""The cost of distributing the environments of a training over the workers of a Ray cluster.

    .venv/bin/python benchmarks/spread.py benchmarks/spread.csv --measure
    .venv/bin/python benchmarks/spread.py benchmarks/spread.csv

The first command measures iterations on a local Ray with two workers: the bytes that are sent and received,
and the milliseconds beyond the rollouts of the busier worker. The second command fits a line to these numbers
and prints the tables of docs/scale.md. The environments have the size of HalfCheetah (17 observations, 6
actions) and cost nothing.
"""

import argparse
import csv
import sys
import time
from pathlib import Path
from statistics import median

import gymnasium
import numpy as np

GROUPS = (1, 2, 4, 8, 16, 32, 64)
ENVS, STEPS = 4, 128  # of a group
ITERATIONS = 24
WARM = 4  # iterations at the start that are not counted
COLUMNS = ("groups", "iteration", "out_bytes", "in_bytes", "ray_ms", "collect_ms", "learn_ms")
NETWORK = 125e6  # bytes a second: one gigabit


class Free(gymnasium.Env):
    """An environment that costs nothing and ends after 1,000 steps."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (17,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (6,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._obs, self._count = self.np_random.normal(size=17).astype(np.float32), 0
        return self._obs, {}

    def step(self, action):
        self._count += 1
        return self._obs, 0.0, False, self._count == 1000, {}


def measure(out: Path) -> None:
    """Measures iterations of trainings with more and more groups, on two workers."""
    from poise.config import PPO, Config
    from poise.envs import resolve
    from poise.system import cluster
    from poise.training import workers
    from poise.training.loop import iterations

    class Timed(workers._Worker):
        """A worker that also returns the seconds of its rollout."""

        def collect(self, *arguments):
            start = time.perf_counter()
            answer = super().collect(*arguments)
            return answer | {"seconds": time.perf_counter() - start}

    answers: list[dict] = []
    unpacked = workers._unpacked
    workers._Worker = Timed
    workers._unpacked = lambda data: answers.append(dict(data)) or unpacked(data)
    task = resolve("spread:Free")
    rows = []
    with cluster.joined(cluster.LOCAL, processes=2):
        for groups in GROUPS:
            size = groups * ENVS * STEPS
            ppo = PPO(num_steps=STEPS, minibatch_size=64, recompute_every=None)
            config = Config(total_steps=ITERATIONS * size, num_envs=groups * ENVS, env_groups=groups, ppo=ppo)
            count = min(2, groups)
            world = workers.Workers(
                task, config, workers.WorkerSettings(count, 60.0, restart=False), sys.stderr
            )
            for progress in iterations(config, world):
                seconds = [answer["seconds"] for answer in answers]
                busiest = max(sum(seconds[i::count]) for i in range(count))
                learner = progress.state.learner.policy, progress.state.normalizer
                rows.append(
                    {
                        "groups": groups,
                        "iteration": progress.iteration,
                        "out_bytes": _bytes(learner),
                        "in_bytes": _bytes(answers) + _bytes(progress.world),
                        "ray_ms": 1e3 * (progress.rollout_seconds - busiest),
                        "collect_ms": 1e3 * busiest,
                        "learn_ms": 1e3 * progress.learn_seconds,
                    }
                )
                answers.clear()
            world.close()
            print(groups, "groups measured", file=sys.stderr)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _bytes(tree: object) -> int:
    import jax

    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree) if hasattr(leaf, "nbytes"))


def read(path: Path) -> dict[int, dict[str, float]]:
    """The medians for each number of groups, without the first iterations."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["iteration"]) > WARM]
    return {
        groups: {
            name: median(float(r[name]) for r in rows if int(r["groups"]) == groups) for name in COLUMNS[2:]
        }
        for groups in sorted({int(row["groups"]) for row in rows})
    }


def fit_costs(measured: dict[int, dict[str, float]]) -> dict[str, float]:
    """Milliseconds of an iteration with S groups: ``base + group S``; milliseconds of learning a row."""
    groups = np.array(list(measured))
    slope, base = np.polyfit(groups, [measured[s]["ray_ms"] for s in measured], 1)
    last = measured[int(groups[-1])]
    rows = groups[-1] * ENVS * STEPS
    acting = min(measured[s]["collect_ms"] / max(1, s / 2) / STEPS for s in measured if s > 1)
    return {
        "base": max(0.0, float(base)),
        "group": float(slope),
        "out": last["out_bytes"],
        "in": last["in_bytes"] / groups[-1],
        "learn": last["learn_ms"] / rows,
        "acting": acting,  # ms of a step of one group without its environments
    }


def efficiency(fit: dict[str, float], workers: int, step_ms: float) -> float:
    """Steps a second of the workers, each with one group, divided by what their environments allow."""
    stepping = step_ms * ENVS * STEPS
    passing = fit["base"] + fit["group"] * workers
    wire = 1e3 * workers * (fit["out"] + fit["in"]) / NETWORK
    learning = fit["learn"] * ENVS * STEPS * workers
    return stepping / (stepping + fit["acting"] * STEPS + passing + wire + learning)


def tables(path: Path) -> str:
    measured = read(path)
    fit = fit_costs(measured)
    lines = [
        "| groups | bytes out, each worker | bytes in, all | Ray, ms | learning, ms |",
        "|---|---|---|---|---|",
    ]
    for groups, row in measured.items():
        cells = (
            f"{row['out_bytes']:,.0f} | {row['in_bytes']:,.0f} | {row['ray_ms']:.1f} | {row['learn_ms']:.0f}"
        )
        lines.append(f"| {groups} | {cells} |")
    lines += ["", f"fit: {', '.join(f'{name} {value:.4g}' for name, value in fit.items())}", ""]
    lines += ["| an environment's step | 10 workers | 100 workers | 1,000 workers |", "|---|---|---|---|"]
    for step in (0.1, 1.0, 10.0, 100.0):
        shares = " | ".join(f"{efficiency(fit, workers, step):.0%}" for workers in (10, 100, 1000))
        lines.append(f"| {step:g} ms | {shares} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--measure", action="store_true", help="measure, and write the file")
    args = parser.parse_args()
    if args.measure:
        measure(args.results)
    print(tables(args.results))
