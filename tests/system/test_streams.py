import io
import os
import sys

from poise.cli.main import main
from poise.system.streams import Lasting, lasting_output


def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", buffering=1)


def test_output_that_nobody_reads_is_discarded_and_the_work_continues(monkeypatch):
    done = []
    with broken_pipe() as out:
        monkeypatch.setattr(sys, "stdout", out)
        with lasting_output():
            for i in range(3):
                print(i)
                done.append(i)
    assert done == [0, 1, 2]


def test_a_process_without_standard_error_works(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["presets"]) == 0
    assert main(["train", "nowhere"]) == 2


def test_a_training_continues_when_its_reader_is_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with broken_pipe() as out:
        monkeypatch.setattr(sys, "stdout", out)
        tiny = "--total-steps 256 --num-envs 2 --ppo.num-steps 64 --no-evaluate --no-video"
        assert main(["train", "Pendulum-v1", *tiny.split()]) == 0
    (summary,) = tmp_path.rglob("summary.json")
    assert '"status": "finished"' in summary.read_text()


def test_a_working_stream_gets_everything_and_keeps_its_methods():
    stream = io.StringIO()
    lasting = Lasting(stream)
    assert lasting.write("abc") == 3
    lasting.flush()
    assert stream.getvalue() == lasting.getvalue() == "abc"
    assert not lasting.isatty()
