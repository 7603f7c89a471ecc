"""The functions of Python that start processes, as a script calls them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import poise

pytestmark = pytest.mark.processes

SCRIPT = """
import io
from pathlib import Path
import poise

SMALL = dict(total_steps=512, num_envs=2, ppo={"num_steps": 128}, policy={"hidden": 8})


def main():
    shown = io.StringIO()
    one = poise.experiment("Pendulum-v1", seeds=2, file=shown, **SMALL)
    assert shown.getvalue().endswith(f"{one}\\n{one.folder}\\n")
    assert not (one.folder / "0" / "video.mp4").exists()
    scores = one.scores["Pendulum-v1"]
    assert scores.seeds == (0, 1)
    two = poise.experiment(["Pendulum-v1"], seeds=2, seed=5, against=one.folder, file=shown, **SMALL)
    gap = two.scores["Pendulum-v1"].mean.value - scores.mean.value
    assert abs(two.differences["Pendulum-v1"].value - gap) < 0.01  # the table has six digits
    compared = poise.compare([one, two.folder], plot="curves.png")
    assert [len(setting.scores) for setting in compared.settings] == [4]
    assert Path("curves.png").exists()
    assert not poise.diff(one.folder / "0", one.folder / "1").same
    found = poise.check("CartPole-v1")
    assert found.ok and str(found).endswith("poise train CartPole-v1")


if __name__ == "__main__":
    main()
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(program)
    path = os.pathsep.join(sys.path)
    return subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_script_trains_compares_and_checks(tmp_path):
    done = run(SCRIPT, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "call", ['poise.experiment("Pendulum-v1", seeds=2, total_steps=512)', 'poise.check("CartPole-v1")']
)
def test_a_script_without_a_main_guard_is_told_so_in_a_sentence(call, tmp_path):
    done = run(
        f"import poise\ntry:\n    {call}\nexcept poise.PoiseError as error:\n    print(error)\n", tmp_path
    )
    last = done.stdout.splitlines()[-1]
    assert last.endswith('put the call under if __name__ == "__main__":'), done.stderr


def test_a_film_is_made_of_a_run(tmp_path):
    run = poise.train("CartPole-v1", total_steps=512, num_envs=2, video=False, evaluate=False, out=tmp_path)
    path = poise.video(run.folder)
    assert path.parent == run.folder
    assert path.stem == "video"
    assert path.stat().st_size > 1000
