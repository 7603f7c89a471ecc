"""The same work in poise and in other systems: whole processes, one after another.

    .venv/bin/python benchmarks/peers.py peers.csv --torch TORCH/bin/python --rejax REJAX/bin/python

TORCH is a virtual environment with stable-baselines3, sbx-rl and gymnasium[mujoco] on a CPU build of
PyTorch. REJAX is one with rejax and gymnax. poise does not depend on any of them.

The work: 16 environments x 128 steps (or 1 x 2048), 10 epochs, minibatches of 64, two tanh networks with two
layers of 64 units (or more), observations and rewards normalized, no evaluation. Each row of the CSV is one
process: seconds from start to exit, and steps a second between the end of its first iteration and the end of
its last. The first process of each kind fills the caches and is not counted. Rows that the file has are not
run again. ``--only`` and ``--busy`` choose tasks, and keep one core busy meanwhile.

Stable-Baselines3 is measured with one and with two threads of PyTorch (sb3, sb3-2), and with one process for
each environment (sb3-subproc), where that may be its best.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

COLUMNS = ("task", "envs", "units", "steps", "load", "system", "round", "seconds", "steps_per_second")
SLOW = "slow_env:Slow-v0"  # 1 ms a step, in Python


class Work(NamedTuple):
    """What is trained, and by which systems."""

    task: str
    envs: int
    systems: tuple[str, ...]
    units: int = 64
    steps: int = 100_000


WORK = [
    Work("InvertedPendulum-v5", 16, ("poise", "sb3", "sbx")),
    Work("Reacher-v5", 16, ("poise", "sb3", "sbx")),
    Work("InvertedPendulum-v5", 1, ("poise", "sb3")),
    Work("Pendulum-v1", 16, ("poise", "rejax")),
    Work("CartPole-v1", 16, ("poise", "sb3")),
    Work("LunarLander-v3", 16, ("poise", "sb3")),
    Work("BipedalWalker-v3", 16, ("poise", "sb3")),
    Work(SLOW, 16, ("poise", "sb3", "sb3-subproc"), steps=20_000),
    Work("HalfCheetah-v5", 16, ("poise", "sb3")),
    Work("HalfCheetah-v5", 16, ("poise", "sb3", "sb3-2"), units=256, steps=30_000),
    Work("HalfCheetah-v5", 16, ("poise", "sb3", "sb3-2"), units=512, steps=20_000),
    Work("Humanoid-v5", 16, ("poise", "sb3", "sb3-2"), units=256, steps=20_000),
]


def stable_baselines(name: str, work: Work) -> float:
    """Trains with Stable-Baselines3 or SBX in this process; steps a second after the first iteration."""
    import gymnasium as gym
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

    if name != "sbx":
        import torch
        from stable_baselines3 import PPO

        torch.set_num_threads(2 if name == "sb3-2" else 1)
        activation = torch.nn.Tanh
    else:
        import flax.linen as nn
        from sbx import PPO

        activation = nn.tanh

    class Ends(BaseCallback):
        """Records the start of each rollout, which is the end of the iteration before."""

        def _on_rollout_start(self) -> None:
            times.append((time.perf_counter(), self.num_timesteps))

        def _on_step(self) -> bool:
            return True

    times: list[tuple[float, int]] = []
    vector = SubprocVecEnv if name == "sb3-subproc" else DummyVecEnv
    made = vector([partial(gym.make, work.task)] * work.envs)
    world = VecNormalize(made, clip_obs=10.0, clip_reward=10.0)
    layers = [work.units] * 2
    model = PPO(
        "MlpPolicy",
        world,
        n_steps=2048 // work.envs,
        batch_size=64,
        n_epochs=10,
        device="cpu",
        seed=0,
        policy_kwargs={"net_arch": {"pi": layers, "vf": layers}, "activation_fn": activation},
    )
    model.learn(work.steps, callback=Ends())
    times.append((time.perf_counter(), model.num_timesteps))
    (first_time, first_steps), (last_time, last_steps) = times[1], times[-1]
    return (last_steps - first_steps) / (last_time - first_time)


def rejax(work: Work) -> float:
    """Trains Pendulum-v1 with rejax in this process; steps a second of a second training."""
    import accelerator

    same = accelerator.Work(work.envs, 2048 // work.envs, 10, 64, work.steps, small=True)
    return accelerator.rejax(same)[0]


def poise_command(work: Work, out: str) -> list[str]:
    options = [
        f"--num-envs {work.envs} --ppo.num-steps {2048 // work.envs} --total-steps {work.steps}",
        "--ppo.minibatch-size 64 --ppo.recompute-every None",  # as in the other systems
        f"--policy.hidden {work.units}x{work.units} --value.hidden {work.units}x{work.units}",
        "--no-evaluate --no-video --json",
        "--backend gymnasium-async" if work.task == SLOW else "",
    ]
    return [sys.executable, "-m", "poise", "train", work.task, *" ".join(options).split(), "--out", out]


def measure(system: str, work: Work, pythons: dict[str, str]) -> tuple[float, float]:
    """Seconds of the whole process, and its steps a second."""
    with tempfile.TemporaryDirectory() as out:
        command = poise_command(work, out)
        if system != "poise":
            command = [pythons[system], __file__, "--in-process", system, str(WORK.index(work))]
        # every module is compiled, as at a user's second start
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        start = time.perf_counter()
        here = Path(__file__).parent  # where the slow environment is
        done = subprocess.run(command, env=environment, cwd=here, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{system} on {work.task} failed:\n{done.stderr[-2000:]}")
    if system == "poise":
        return seconds, json.loads(done.stdout)["steps_per_second"]
    return seconds, float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path, nargs="?")
    parser.add_argument("--torch", help="Python with stable-baselines3 and sbx-rl")
    parser.add_argument("--rejax", help="Python with rejax and gymnax")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="these tasks")
    parser.add_argument("--units", type=int, help="networks of this width")
    parser.add_argument("--busy", action="store_true", help="another process keeps a core busy")
    parser.add_argument("--in-process", nargs=2, metavar=("SYSTEM", "NUMBER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.in_process:
        system, work = args.in_process[0], WORK[int(args.in_process[1])]
        print(rejax(work) if system == "rejax" else stable_baselines(system, work))
        return
    spin = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if args.busy else None
    try:
        measure_all(args)
    finally:
        if spin is not None:
            spin.kill()


def measure_all(args: argparse.Namespace) -> None:
    """Measures what the file does not have."""
    sb3 = dict.fromkeys(("sb3", "sb3-2", "sb3-subproc", "sbx"), args.torch)
    pythons = {**sb3, "rejax": args.rejax}
    finished, load = set(), "busy" if args.busy else ""
    if args.csv.exists():
        with args.csv.open(newline="") as file:
            finished = {tuple(row[name] for name in COLUMNS[:7]) for row in csv.DictReader(file)}
    with args.csv.open("a", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        if not finished:
            rows.writerow(COLUMNS)
        for work in WORK:
            if (args.only and work.task not in args.only) or (args.units and work.units != args.units):
                continue
            what = (work.task, str(work.envs), str(work.units), str(work.steps), load)
            systems = [s for s in work.systems if s == "poise" or pythons[s]]
            turns = [(str(number), s) for number in range(args.rounds) for s in systems]
            missing = [(number, s) for number, s in turns if (*what, s, number) not in finished]
            for system in {s: None for _, s in missing}:
                measure(system, work, pythons)
            for number, system in missing:
                seconds, pace = measure(system, work, pythons)
                rows.writerow([*what, system, number, f"{seconds:.2f}", f"{pace:.0f}"])
                file.flush()
                print(*what, system, number, f"{seconds:.2f} s", f"{pace:,.0f} steps/s", flush=True)


if __name__ == "__main__":
    main()
