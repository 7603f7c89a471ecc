"""The same work in poise and in other systems: whole processes, one after another.

    .venv/bin/python benchmarks/peers.py peers.csv --torch TORCH/bin/python --rejax REJAX/bin/python

TORCH is a virtual environment with stable-baselines3, sbx-rl and gymnasium[mujoco] on a CPU build of
PyTorch. REJAX is one with rejax and gymnax. poise does not depend on any of them.

The work: 100,000 steps, 16 environments x 128 steps (or 1 x 2048), 10 epochs, minibatches of 64, two 2x64
tanh networks, observations and rewards normalized, no evaluation. Each row of the CSV is one process:
seconds from start to exit, and steps a second between the end of its first iteration and the end of its last.
The first process of each kind fills the caches and is not counted. Rows that the file has are not run again.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = 100_000
COLUMNS = ("task", "envs", "system", "round", "seconds", "steps_per_second")
WORK = [
    ("InvertedPendulum-v5", 16, ("poise", "sb3", "sbx")),
    ("Reacher-v5", 16, ("poise", "sb3", "sbx")),
    ("InvertedPendulum-v5", 1, ("poise", "sb3")),
    ("Pendulum-v1", 16, ("poise", "rejax")),
]


def stable_baselines(name: str, task: str, envs: int) -> float:
    """Trains with Stable-Baselines3 or SBX in this process; steps a second after the first iteration."""
    import gymnasium as gym
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    if name == "sb3":
        import torch
        from stable_baselines3 import PPO

        torch.set_num_threads(1)  # the fastest setting for networks of this size
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
    world = VecNormalize(DummyVecEnv([lambda: gym.make(task)] * envs), clip_obs=10.0, clip_reward=10.0)
    model = PPO(
        "MlpPolicy",
        world,
        n_steps=2048 // envs,
        batch_size=64,
        n_epochs=10,
        device="cpu",
        seed=0,
        policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "activation_fn": activation},
    )
    model.learn(STEPS, callback=Ends())
    times.append((time.perf_counter(), model.num_timesteps))
    (first_time, first_steps), (last_time, last_steps) = times[1], times[-1]
    return (last_steps - first_steps) / (last_time - first_time)


def rejax(envs: int) -> float:
    """Trains Pendulum-v1 with rejax in this process; steps a second of a second training."""
    import accelerator

    return accelerator.rejax(accelerator.Work(envs, 2048 // envs, 10, 64, STEPS, small=True))[0]


def poise_command(task: str, envs: int, out: str) -> list[str]:
    work = "--ppo.minibatch-size 64 --ppo.recompute-every None"  # as in the other systems
    options = f"--num-envs {envs} --ppo.num-steps {2048 // envs} {work} --total-steps {STEPS}".split()
    return [
        sys.executable,
        "-m",
        "poise",
        "train",
        task,
        *options,
        "--no-evaluate",
        "--no-video",
        "--json",
        "--out",
        out,
    ]


def measure(system: str, task: str, envs: int, pythons: dict[str, str]) -> tuple[float, float]:
    """Seconds of the whole process, and its steps a second."""
    with tempfile.TemporaryDirectory() as out:
        command = poise_command(task, envs, out)
        if system != "poise":
            command = [pythons[system], __file__, "--in-process", system, task, str(envs)]
        # every module is compiled, as at a user's second start
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        start = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{system} on {task} failed:\n{done.stderr[-2000:]}")
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
    parser.add_argument("--in-process", nargs=3, metavar=("SYSTEM", "TASK", "ENVS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.in_process:
        system, task, envs = args.in_process
        pace = rejax(int(envs)) if system == "rejax" else stable_baselines(system, task, int(envs))
        print(pace)
        return
    pythons = {"sb3": args.torch, "sbx": args.torch, "rejax": args.rejax}
    finished = set()
    if args.csv.exists():
        with args.csv.open(newline="") as file:
            finished = {
                (r["task"], int(r["envs"]), r["system"], int(r["round"])) for r in csv.DictReader(file)
            }
    with args.csv.open("a", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        if not finished:
            rows.writerow(COLUMNS)
        for task, envs, systems in WORK:
            systems = [s for s in systems if s == "poise" or pythons[s]]
            missing = [
                (r, s) for r in range(args.rounds) for s in systems if (task, envs, s, r) not in finished
            ]
            for system in {s: None for _, s in missing}:
                measure(system, task, envs, pythons)
            for number, system in missing:
                seconds, pace = measure(system, task, envs, pythons)
                rows.writerow([task, envs, system, number, f"{seconds:.2f}", f"{pace:.0f}"])
                file.flush()
                print(task, envs, system, number, f"{seconds:.2f} s", f"{pace:,.0f} steps/s", flush=True)


if __name__ == "__main__":
    main()
