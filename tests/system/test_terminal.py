"""Text of files and of environments on a terminal."""

import io
import re
import shlex
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.agents.agent import Agent, AgentError
from poise.cli.main import main
from poise.cli.telling import as_json
from poise.errors import shortened
from poise.system.terminal import print, typed, visible

SOURCE = Path(__file__).parents[2] / "src" / "poise"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("\x07\x08\r\x7f", r"\x07\x08\r\x7f"),
        ("\x9b31m\x85", r"\x9b31m\x85"),
        ("\u202egnp\u2066\u200e", r"\u202egnp\u2066\u200e"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("line\n\ttab é 😀 日本 نستعلیق می\u200cخواهم 👩\u200d🚀 \xa0", None),
    ],
)
def test_control_characters_are_shown_as_escapes(text, shown):
    assert visible(text) == (text if shown is None else shown)


@given(st.text(st.characters()))
def test_no_control_character_is_left(text):
    left = {unicodedata.category(c) for c in visible(text) if c not in "\n\t\u200c\u200d"}
    assert not left & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_print_shows_text_and_leaves_a_path_to_programs(capsys, monkeypatch):
    print("a\x1b", "b", sep="-", end="!\n")
    print(Path("a\x1bb"))
    file = io.StringIO()
    print(Path("a\x1bb"), file=file)
    assert capsys.readouterr().out == "a\\x1b-b!\na\x1bb\n"
    assert file.getvalue() == "a\\x1bb\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    print(Path("a\x1bb"))
    assert capsys.readouterr().out == "a\\x1bb\n"


def test_a_long_text_is_cut_in_its_middle():
    assert shortened("a" * 4000, 4000) == "a" * 4000
    cut = shortened("a" * 10**6 + "end", 4000)
    assert cut.endswith("end")
    assert "996,003 characters left out" in cut
    assert len(cut) < 4100


def test_json_contains_no_control_characters():
    assert as_json({"a": "\x7f\x1b\x9b\u202e"}) == '{\n  "a": "\\u007f\\u001b\\u009b\\u202e"\n}'


@given(st.text(st.characters(exclude_characters="\0")))
def test_a_typed_command_is_parsed_back_to_its_words(name):
    assert shlex.split(typed("poise", "resume", name)) == ["poise", "resume", name]


def test_a_name_in_advice_is_quoted():
    class Hostile:
        env = "a:b; rm -rf ~"

    agent = Agent.__new__(Agent)
    agent._manifest = Hostile()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AgentError, match=r"--env 'a:b; rm -rf ~' \(in Python"):
        agent.world(None)


def test_every_module_uses_the_print_of_terminal():
    """A print of its own would show what a terminal obeys. These print nothing of files or environments."""
    apart = {
        "agents/export_numpy.py",  # the text of a file that has no poise
        "system/terminal.py",
        "training/metrics.py",
        "system/keeper.py",
        "envs/mujoco_warnings.py",
        "agents/export.py",
    }
    for path in SOURCE.rglob("*.py"):
        text, name = path.read_text(), str(path.relative_to(SOURCE))
        if name not in apart and re.search(r"(?<![.\w])print\(|partial\(print\b", text):
            assert re.search(r"^from poise\.system\.terminal import .*\bprint\b", text, re.MULTILINE), name


def test_a_lack_of_memory_is_reported_in_one_sentence(monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.")

    monkeypatch.setattr("poise.cli.main._run", fail)
    assert main(["presets"]) == 1
    assert capsys.readouterr().err == "poise: not enough memory\n"
    monkeypatch.setattr("poise.cli.main._run", lambda *_: [][0])
    with pytest.raises(IndexError):
        main(["presets"])
