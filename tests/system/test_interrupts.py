"""An interrupt is heard whatever the main thread does, and what was done is saved."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from processes import alive_in_session

from poise.system.interrupts import Interrupted, guarded

# the main thread is in one call of compiled code for minutes; Python runs no handler there
DEAF = """
import hashlib, multiprocessing, sys, time
from pathlib import Path
from poise.system.interrupts import guarded

if __name__ == "__main__":
    with guarded() as guard, guard.saving(lambda: Path("saved").write_text("all")):
        child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(1000,))
        child.start()
        Path("ready").touch()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


def deaf(folder):
    (folder / "deaf.py").write_text(DEAF)
    process = subprocess.Popen([sys.executable, "deaf.py"], cwd=folder, start_new_session=True)
    while not (folder / "ready").exists():
        time.sleep(0.02)
    time.sleep(0.3)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_blocked_main_thread_is_ended_in_time_and_its_work_is_saved(number, tmp_path):
    process = deaf(tmp_path)
    start = time.monotonic()
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert 2 < time.monotonic() - start < 5
    assert (tmp_path / "saved").read_text() == "all"
    time.sleep(0.2)
    assert not alive_in_session(process.pid)  # the child is gone, too


def test_a_second_signal_ends_the_process_at_once(tmp_path):
    process = deaf(tmp_path)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert time.monotonic() - start < 1.5
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_python_code_a_signal_is_an_exception_with_the_exit_code(number):
    before = signal.getsignal(number)

    def interrupted():
        with guarded():
            os.kill(os.getpid(), number)
            time.sleep(5)

    with pytest.raises(Interrupted) as raised:
        interrupted()
    assert raised.value.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_in_another_thread_the_guard_has_no_effect():
    unchanged = []

    def work():
        before = signal.getsignal(signal.SIGTERM)
        with guarded():
            unchanged.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert unchanged == [True]
