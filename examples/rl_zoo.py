"""Ten experiments of RL Zoo, translated, trained by name and compared in one table.

python rl_zoo.py                          # all ten, 13 million steps
python rl_zoo.py CartPole-v1 Pendulum-v1  # these two
python rl_zoo.py --quick                  # a few hundred steps of each, to see that everything runs
"""

import subprocess
import sys
from pathlib import Path

import poise

ZOO = Path(__file__).with_name("rl_zoo.yml")
TASKS = [line.partition(":")[0] for line in ZOO.read_text().splitlines() if line[:1].isupper()]
QUICK = {"total_steps": 256, "num_envs": 2, "ppo": {"num_steps": 64, "minibatch_size": 32}, "evaluate": False}


def train(task: str, changes: dict) -> tuple[object, ...]:
    """The row of a task: its score, the bounds of the 95% interval, steps and seconds."""
    file = Path(f"{task}.yaml")
    file.write_text(subprocess.check_output(["poise", "translate", ZOO, task], text=True))
    try:
        summary = poise.train(config=file, name="zoo", video=False, **changes).summary
    except poise.PoiseError as error:  # the package of a task may be missing
        return task, f"left out: {error}"
    score = summary["evaluation"] or dict.fromkeys(("mean", "low", "high"), "-")
    return task, score["mean"], score["low"], score["high"], summary["steps"], summary["seconds"]["total"]


if __name__ == "__main__":
    names = [word for word in sys.argv[1:] if word in TASKS] or TASKS
    rows = [train(name, QUICK if "--quick" in sys.argv else {}) for name in names]
    for row in [("task", "greedy return", "from", "to", "steps", "seconds"), *rows]:
        cells = (f"{cell:,.1f}" if isinstance(cell, float) else str(cell) for cell in row)
        print("".join(cell.ljust(26) if column == 0 else cell.rjust(14) for column, cell in enumerate(cells)))
