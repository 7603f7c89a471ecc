"""The pace of poise, on the device that this machine has: against rejax, on the host, and until a score.

    .venv/bin/python benchmarks/accelerator.py FILE.csv --rejax REJAX/bin/python

REJAX is a virtual environment with rejax 0.1.3 and gymnax 0.0.9, on a GPU also jax[cuda13]. poise does
not depend on either. The work: Pendulum-v1, two networks of 2 x 64 with tanh, observations and rewards
normalized, advantages computed once an iteration, no evaluation. Each measurement is one process. Its
pace is that of training: of poise from the end of its first iteration on, with the run folder that it
writes; of rejax that of a second training in the process, which compiles nothing and writes nothing.
Seconds of compilation are in a column of their own. On a CPU, only the two smaller settings are
measured.

With ``--host``: HalfCheetah-v5 on MuJoCo's batch engine with 64 environments, with ``--device`` cpu, gpu and
auto in turn. With ``--seeds-in-one``: seconds of a whole command that trains 64 seeds of Pendulum-v1 for 1M
steps each as one program. With ``--scores``: seconds, compilation included, until the mean return of the
episodes of an iteration reaches a score. On a CPU these are done in a reduced form. Rows that the file has
for this kind of device are not run again: for another machine, name another file.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

COLUMNS = ("device", "envs", "steps", "system", "round", "steps_per_second", "compile_seconds")


class Work(NamedTuple):
    envs: int
    steps: int  # of a rollout
    epochs: int
    minibatch: int
    total: int  # steps of the training
    small: bool  # is done on a CPU too


class Goal(NamedTuple):
    """A task, and the mean return of a training's episodes at which the clock stops."""

    env: str
    score: float
    envs: int
    total: int
    small: bool


GOALS = (
    Goal("Pendulum-v1", -250.0, 16, 100_000, small=True),
    Goal("playground:CheetahRun", 700.0, 2048, 200_000_000, small=False),
    Goal("playground:WalkerWalk", 900.0, 2048, 200_000_000, small=False),
)

WORK = (
    Work(16, 128, 10, 64, 200_000, small=True),
    Work(256, 32, 4, 1024, 2_000_000, small=True),
    Work(2048, 32, 4, 8192, 20_000_000, small=False),
    Work(8192, 32, 4, 32_768, 60_000_000, small=False),
)


def rejax(work: Work) -> tuple[float, float]:
    """Trains with rejax twice in this process; steps a second of the second, and seconds of compilation."""
    import jax
    from rejax import PPO

    algorithm = PPO.create(
        env="Pendulum-v1",
        num_envs=work.envs,
        num_steps=work.steps,
        num_epochs=work.epochs,
        num_minibatches=work.envs * work.steps // work.minibatch,
        total_timesteps=work.total,
        eval_freq=work.total,
        skip_initial_evaluation=True,
        normalize_observations=True,
        normalize_rewards=True,
        agent_kwargs={"hidden_layer_sizes": (64, 64), "activation": "tanh"},
    ).replace(eval_callback=lambda *_: ())
    train = jax.jit(PPO.train)
    seconds = []
    for seed in range(2):
        start = time.perf_counter()
        jax.block_until_ready(train(algorithm, jax.random.key(seed)))
        seconds.append(time.perf_counter() - start)
    rollout = work.envs * work.steps
    return -(-work.total // rollout) * rollout / seconds[1], seconds[0] - seconds[1]  # it rounds up


def poise(work: Work) -> tuple[float, float]:
    """The same for ``poise train`` in a process of its own."""
    shape = f"--num-envs {work.envs} --ppo.num-steps {work.steps} --total-steps {work.total}"
    learning = f"--ppo.num-epochs {work.epochs} --ppo.minibatch-size {work.minibatch}"
    summary = train("Pendulum-v1", *f"{shape} {learning} --ppo.recompute-every None".split())
    return summary["steps_per_second"], summary["seconds"]["compile"]


def train(*options: str) -> dict[str, Any]:
    """The summary of ``poise train`` without score and film, in a process of its own."""
    with tempfile.TemporaryDirectory() as out:
        rest = ["--no-evaluate", "--no-video", "--json", "--out", out]
        return json.loads(output([sys.executable, "-m", "poise", "train", *options, *rest]))


def on_host(device: str, *, small: bool) -> tuple[float, float]:
    """HalfCheetah-v5 with 64 environments on the host, learning on ``device``."""
    total = "30000" if small else "1000000"
    summary = train("HalfCheetah-v5", "--num-envs", "64", "--total-steps", total, "--device", device)
    return summary["steps_per_second"], summary["seconds"]["compile"]


def seeds_in_one(seeds: int, total: int, *, small: bool) -> tuple[float, float]:
    """Steps a second of all seeds together, and seconds, of a command that trains them as one program."""
    many = ["--seeds", str(seeds), "--together", str(seeds), "--total-steps", str(total)]
    began = time.perf_counter()
    summary = train("Pendulum-v1", *many, "--device", "cpu" if small else "gpu")
    seconds = time.perf_counter() - began
    return seeds * summary["steps"] / seconds, seconds


def until(goal: Goal) -> tuple[float, float]:
    """Steps a second, and seconds, of a training that is ended where it reaches the goal."""
    with tempfile.TemporaryDirectory() as out:
        options = ["--num-envs", str(goal.envs), "--total-steps", str(goal.total), "--out", out]
        command = [sys.executable, "-m", "poise", "train", goal.env, *options, "--no-evaluate", "--no-video"]
        began = time.perf_counter()
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            while True:
                ended = process.poll() is not None  # before reading, so that the last rows are read
                if (steps := reached(goal, Path(out))) is not None:
                    seconds = time.perf_counter() - began
                    process.terminate()
                    return steps / seconds, seconds
                if ended:
                    raise SystemExit(
                        f"{' '.join(command)} ended without {goal.score}: {process.stderr.read()}"
                    )
                time.sleep(0.5)


def reached(goal: Goal, out: Path) -> int | None:
    """Steps of a training at the end of the first iteration whose episodes reach the goal."""
    for path in out.rglob("metrics.jsonl"):
        for row in map(json.loads, whole(path)):
            if row["episode/return"] is not None and row["episode/return"] >= goal.score:
                return row["steps"]
    return None


def whole(path: Path) -> list[str]:
    """The lines of a file that may be being written to."""
    return path.read_text().split("\n")[:-1]


def output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def measure(system: str, work: Work, python: str) -> tuple[float, float]:
    if system == "poise":
        return poise(work)
    found = output([python, __file__, "--in-process", json.dumps(work)])
    pace, compiling = map(float, found.split()[-2:])
    return pace, compiling


def device_name() -> str:
    found = output([sys.executable, "-c", "import jax; print(jax.devices()[0].device_kind)"])
    return found.strip().splitlines()[-1]


def table(rows: list[dict[str, str]]) -> str:
    """The medians in Markdown, for each device."""
    lines = [
        "| device | environments x steps | poise, steps/s | rejax, steps/s | ratio | compilation, s |",
        "|---|---|---|---|---|---|",
    ]
    for device in dict.fromkeys(row["device"] for row in rows):
        for work in WORK:
            own = [r for r in rows if (r["device"], r["envs"]) == (device, str(work.envs))]
            kinds = [[r for r in own if r["system"] == system] for system in ("poise", "rejax")]
            if not all(kinds):
                continue
            pace = [np.median([float(r["steps_per_second"]) for r in kind]) for kind in kinds]
            compiling = [np.median([float(r["compile_seconds"]) for r in kind]) for kind in kinds]
            lines.append(
                f"| {device} | {work.envs:,} x {work.steps} | {pace[0]:,.0f} | {pace[1]:,.0f} "
                f"| {pace[0] / pace[1]:.2f} | {compiling[0]:.0f}, {compiling[1]:.0f} |"
            )
    return "\n".join(lines)


def others(rows: list[dict[str, str]]) -> list[str]:
    """A line for each measurement that has no peer: the medians."""
    lines, names = [], [(r["device"], r["steps"], r["system"]) for r in rows if not r["steps"].isdigit()]
    for name in dict.fromkeys(names):
        own = [r for r in rows if (r["device"], r["steps"], r["system"]) == name]
        pace, seconds = (np.median([float(r[x]) for r in own]) for x in COLUMNS[-2:])
        what = "until then" if " to " in name[1] else "in all" if " seeds " in name[1] else "to compile"
        lines.append(f"{name[0]}, {name[1]}, {name[2]}: {pace:,.0f} steps/s, {seconds:.0f} s {what}")
    return lines


def jobs(args: argparse.Namespace, *, small: bool) -> Iterator[tuple[tuple[str, ...], Callable]]:
    """Each measurement with the first columns of its row, without the number of its round."""
    for work in (w for w in WORK if w.small or not small):
        for system in ["poise", *(["rejax"] if args.rejax else [])]:
            yield (str(work.envs), str(work.steps), system), partial(measure, system, work, args.rejax)
    for device in ("cpu", "auto") if small else ("cpu", "gpu", "auto"):
        if args.host:
            yield ("64", "HalfCheetah-v5", f"poise --device {device}"), partial(on_host, device, small=small)
    seeds, total = (8, 50_000) if small else (64, 1_000_000)
    if args.seeds_in_one:
        place = "16", f"Pendulum-v1 {seeds} seeds of {total}", f"poise --together {seeds}"
        yield place, partial(seeds_in_one, seeds, total, small=small)
    for goal in (g for g in GOALS if args.scores and g.small == small):
        yield (str(goal.envs), f"{goal.env} to {goal.score:g}", "poise"), partial(until, goal)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path, nargs="?", default=Path("accelerator.csv"))
    parser.add_argument("--rejax", help="Python with rejax and gymnax")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--host", action="store_true", help="environments on the host too")
    parser.add_argument("--seeds-in-one", action="store_true", help="many seeds as one program too")
    parser.add_argument("--scores", action="store_true", help="seconds until a score too")
    parser.add_argument("--in-process", metavar="WORK", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.in_process:
        print(*rejax(Work(*json.loads(args.in_process))))
        return
    if not args.csv.exists():
        args.csv.write_text(",".join(COLUMNS) + "\n")
    device = device_name()
    with args.csv.open(newline="") as file:
        finished = {tuple(row[name] for name in COLUMNS[:5]) for row in csv.DictReader(file)}
    with args.csv.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for number in map(str, range(args.rounds)):
            for name, job in jobs(args, small=device == "cpu"):
                place = (device, *name, number)
                if place in finished:
                    continue
                pace, seconds = job()
                writer.writerow([*place, f"{pace:.0f}", f"{seconds:.1f}"])
                file.flush()
                print(*place, f"{pace:,.0f} steps/s, {seconds:.1f} s", flush=True)
    with args.csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    print(table(rows), *others(rows), sep="\n")


if __name__ == "__main__":
    main()
