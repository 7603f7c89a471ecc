"""Greedy scores of a setting over tasks and seeds, many trainings in one process, one row of CSV each.

    .venv/bin/python benchmarks/learning.py gamma98.csv --seeds 10-19 --set ppo.gamma=0.98

Rows that the file already has are skipped, so a run that was cut off can be started again.
"""

import argparse
import csv
import json
import time
from pathlib import Path

from poise import envs
from poise.acting import ActionScale, Actor
from poise.evaluation import evaluate_agent
from poise.loop import iterations
from poise.presets import configure

TASKS = ["InvertedPendulum-v4", "Reacher-v4", "Pendulum-v1", "CartPole-v1"]
EPISODES = 100


def score(task: str, seed: int, total_steps: int, options: dict) -> tuple[float, float]:
    """Mean greedy return after training, and the seconds that training took."""
    id, config = configure(task, seed=seed, total_steps=total_steps, **options)
    found = envs.resolve(id)
    env = envs.make(found.id, config.num_envs, found.backend)
    begun = time.perf_counter()
    *_, last = iterations(config, env)
    seconds = time.perf_counter() - begun
    actor = Actor(last.state.learner.policy, last.state.normalizer, config.normalize)
    scale = ActionScale(env.spec, normalize=config.normalize.action)
    env.close()
    return evaluate_agent(found, env.spec, actor, scale, seed=seed, episodes=EPISODES).mean, seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--seeds", default="0-4", help="first-last")
    parser.add_argument("--total-steps", type=int, default=100_000)
    parser.add_argument("--set", nargs="*", default=[], metavar="GROUP.OPTION=JSON")
    given = parser.parse_args()
    options: dict = {}
    for item in given.set:
        path, value = item.split("=", 1)
        group, _, name = path.rpartition(".")
        target = options.setdefault(group, {}) if group else options
        target[name] = json.loads(value)
    first, last = (int(s) for s in given.seeds.split("-"))
    label = " ".join(given.set) or "defaults"

    known = set()
    if given.csv.exists():
        with given.csv.open() as file:
            known = {(r["setting"], r["task"], int(r["steps"]), int(r["seed"])) for r in csv.DictReader(file)}
    with given.csv.open("a", newline="") as file:
        rows = csv.writer(file)
        if not known:
            rows.writerow(["setting", "task", "steps", "seed", "return", "seconds"])
        for task in given.tasks:
            for seed in range(first, last + 1):
                if (label, task, given.total_steps, seed) in known:
                    continue
                mean, seconds = score(task, seed, given.total_steps, options)
                rows.writerow([label, task, given.total_steps, seed, round(mean, 3), round(seconds, 2)])
                file.flush()


if __name__ == "__main__":
    main()
