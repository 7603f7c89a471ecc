"""Environments in JAX: the pace of poise against rejax, in turn, on the device that this machine has.

    .venv/bin/python benchmarks/accelerator.py FILE.csv --rejax REJAX/bin/python

REJAX is a virtual environment with rejax 0.1.3 and gymnax 0.0.9, on a GPU also jax[cuda13]. poise does
not depend on either. The work: Pendulum-v1, two networks of 2 x 64 with tanh, observations and rewards
normalized, advantages computed once an iteration, no evaluation. Each measurement is one process. Its
pace is that of training: of poise from the end of its first iteration on, with the run folder that it
writes; of rejax that of a second training in the process, which compiles nothing and writes nothing.
Seconds of compilation are in a column of their own. On a CPU, only the two smaller settings are
measured. Rows that the file has for this kind of device are not run again: for another machine, name
another file.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

COLUMNS = ("device", "envs", "steps", "system", "round", "steps_per_second", "compile_seconds")


class Work(NamedTuple):
    envs: int
    steps: int  # of a rollout
    epochs: int
    minibatch: int
    total: int  # steps of the training
    small: bool  # is done on a CPU too


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
    with tempfile.TemporaryDirectory() as out:
        shape = f"--num-envs {work.envs} --ppo.num-steps {work.steps} --total-steps {work.total}"
        learning = f"--ppo.num-epochs {work.epochs} --ppo.minibatch-size {work.minibatch}"
        rest = f"--ppo.recompute-every None --no-evaluate --no-video --json --out {out}"
        options = f"{shape} {learning} {rest}".split()
        summary = json.loads(output([sys.executable, "-m", "poise", "train", "Pendulum-v1", *options]))
    return summary["steps_per_second"], summary["seconds"]["compile"]


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path, nargs="?", default=Path("accelerator.csv"))
    parser.add_argument("--rejax", help="Python with rejax and gymnax")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--in-process", metavar="WORK", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.in_process:
        print(*rejax(Work(*json.loads(args.in_process))))
        return
    if not args.csv.exists():
        args.csv.write_text(",".join(COLUMNS) + "\n")
    device, systems = device_name(), ["poise", *(["rejax"] if args.rejax else [])]
    with args.csv.open(newline="") as file:
        finished = {tuple(row[name] for name in COLUMNS[:5]) for row in csv.DictReader(file)}
    with args.csv.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for number in range(args.rounds):
            for work in (w for w in WORK if w.small or device != "cpu"):
                for system in systems:
                    place = device, str(work.envs), str(work.steps), system, str(number)
                    if place in finished:
                        continue
                    pace, compiling = measure(system, work, args.rejax)
                    writer.writerow([*place, f"{pace:.0f}", f"{compiling:.1f}"])
                    file.flush()
                    print(*place, f"{pace:,.0f} steps/s, {compiling:.1f} s to compile", flush=True)
    with args.csv.open(newline="") as file:
        print(table(list(csv.DictReader(file))))


if __name__ == "__main__":
    main()
