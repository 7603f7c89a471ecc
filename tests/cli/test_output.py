"""Standard output is for results, and the end of a process is the end."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from poise.agents.evaluation import Evaluation
from poise.health import telling
from poise.system.interrupts import guarded
from poise.wording import figure

LOUD = """
import ctypes, os
from poise.system.streams import lasting_output, quiet_output
with lasting_output():
    print("progress")
    with quiet_output():
        print("an environment", end="")
        ctypes.CDLL(None).puts(b"a C library")
        os.system("echo a child")
    print("result")
"""


def run(program, **options):
    options = {"capture_output": True, "text": True, "timeout": 60} | options
    return subprocess.run([sys.executable, "-c", program], check=False, **options)


def test_output_of_environments_is_not_on_standard_output():
    done = run(LOUD)
    assert done.stdout == "progress\nresult\n"
    assert all(text in done.stderr for text in ("an environment", "a C library", "a child"))


def test_without_standard_error_what_environments_print_is_lost():
    done = run("import os; os.close(2)\n" + LOUD)
    assert (done.returncode, done.stdout) == (0, "progress\nresult\n")


def test_a_standard_output_that_is_full_stops_nothing():
    with open("/dev/full", "w") as full:
        done = run(LOUD, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 0
    assert "a child" in done.stderr
    assert "No space left" not in done.stderr


def test_a_character_that_the_encoding_has_not_is_escaped():
    program = "from poise.system.streams import lasting_output\nwith lasting_output():\n    print('caf\\xe9')"
    done = run(program, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout) == (0, "caf\\xe9\n")


ENDS = """
import atexit, multiprocessing, sys, threading, time
import poise.__main__ as command

def main():
    {body}
    print("done")
    return {code}

atexit.register(print, "at exit")
command.main, command.PATIENCE = main, 0.1
if __name__ == "__main__":
    sys.exit(command.run())
"""


def test_a_thread_that_an_environment_has_left_does_not_keep_the_process():
    begun = time.monotonic()
    done = run(ENDS.format(body="threading.Thread(target=time.sleep, args=(1000,)).start()", code=3))
    assert (done.returncode, done.stdout) == (3, "done\nat exit\n")
    assert time.monotonic() - begun < 30


def test_so_does_one_where_the_command_fails():
    body = "threading.Thread(target=time.sleep, args=(1000,)).start(); raise OSError('broken')"
    done = run(ENDS.format(body=body, code=0))
    assert done.returncode == 1
    assert "OSError: broken" in done.stderr


def test_a_verb_ends_with_its_exit_code():
    assert run(ENDS.format(body="sys.exit(1)", code=0)).returncode == 1


def test_an_interrupted_pool_leaves_no_semaphore_behind():
    body = "global kept; kept = multiprocessing.get_context('spawn').Event()"
    done = run(ENDS.format(body=body, code=143))
    assert (done.returncode, done.stdout, done.stderr) == (143, "done\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_that_an_environment_ignores_are_heard_again(number):
    def interrupted():
        with guarded() as guard:
            signal.signal(number, signal.SIG_IGN)
            signal.set_wakeup_fd(-1)
            guard.restore()
            os.kill(os.getpid(), number)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def score(mean, episodes=100, **more):
    return {"mean": mean, "episodes": episodes, **more}


def test_the_best_agent_is_said_to_be_chosen_elsewhere():
    best = {"steps": 900, "evaluation": score(142.5), "chosen_on": 32}
    summary = {"steps": 1000, "evaluation": score(142.8), "best": best}
    said = "best agent: that of step 900, 142.5 on the same episodes, chosen on 32 other episodes"
    assert telling.best_line(summary) == f'{said} (--which best; poise.load(run, "best"))'
    assert telling.best_line(summary | {"best": best | {"steps": 1000}}) is None
    assert telling.best_line(summary | {"best": None}) is None


def test_the_best_agent_of_an_earlier_version_and_of_fewer_episodes():
    best = {"steps": 900, "evaluation": score(142.5, 40)}
    summary = {"steps": 1000, "evaluation": score(142.8), "best": best}
    said = "best agent: that of step 900, 142.5 on the first 40 episodes"
    assert telling.best_line(summary) == f'{said} (--which best; poise.load(run, "best"))'


@pytest.mark.parametrize(
    ("env", "mean", "said"),
    [
        ("CartPole-v1", 475.0, "Gymnasium calls a mean return of 475 solved: reached"),
        ("CartPole-v1", 474.9, "Gymnasium calls a mean return of 475 solved: not reached"),
        ("InvertedPendulum-v4", 1000.0, "Gymnasium calls a mean return of 950 solved: reached"),
        ("Pendulum-v1", -150.0, None),
        ("my_robot:MyRobot", 1.0, None),
    ],
)
def test_the_threshold_of_a_task_is_said_where_there_is_one(env, mean, said):
    assert telling.threshold_line(env, score(mean)) == said
    assert telling.threshold_line(env, None) is None


@pytest.mark.parametrize("why", ["steps", "seconds", "interrupt"])
def test_a_score_of_fewer_episodes_says_why(why):
    lines = telling.score_lines(Evaluation(np.arange(4.0), np.full(4, 7), 2, 7, why))
    assert lines[0].startswith("greedy return 1.50 over 4 episodes")
    assert lines[1] == "2 of them did not end, and were cut off after 7 steps"
    assert lines[2] == f"the score has fewer episodes than requested: {telling.STOPPED[why]}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.56, "1234.6"),
        (-99.994, "-99.99"),
        (1.0, "1.00"),
        (0.9643, "0.964"),
        (-0.0123, "-0.012"),
        (0.0, "0.00"),
    ],
)
def test_small_returns_have_more_decimals(value, text):
    """A return of 0.964 is not that of 0.96 or 1.0, where 1 is the most there is."""
    assert figure(value) == text
