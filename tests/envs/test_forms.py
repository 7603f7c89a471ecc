"""An environment as one text: what is written is read again, and what cannot be read gets one sentence."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.envs import EnvError
from poise.envs.forms.text import Named, Variant, combine, parse

NAMES = st.from_regex(r"[A-Za-z][\w./:-]{0,12}", fullmatch=True)
KEYS = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
PARTS = st.builds(Named, NAMES, st.dictionaries(KEYS, VALUES, max_size=3))


@given(st.builds(Variant, PARTS, st.lists(PARTS, max_size=3).map(tuple)))
def test_a_text_that_was_written_is_read_as_the_same_environment(variant):
    assert parse(str(variant)) == variant
    assert str(parse(str(variant))) == str(variant)


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("Reacher-v5", "Reacher-v5"),
        ("ALE/Pong-v5", "ALE/Pong-v5"),
        ("paper/reacher", "paper/reacher"),
        ("Ant-v5(b=1,a=True)", "Ant-v5(a=true, b=1)"),
        ("Ant-v5( a = None )", "Ant-v5(a=null)"),
        ("Ant-v5()", "Ant-v5"),
        ('M("x")'.replace('"x"', 'x="a) + b(c"'), 'M(x="a) + b(c")'),
        ("m:E + w:A + w:B(n=4)", "m:E + w:A + w:B(n=4)"),
        ("Hopper-v5(healthy_z_range=[0.7, Infinity])", "Hopper-v5(healthy_z_range=[0.7, Infinity])"),
    ],
)
def test_a_text_has_one_canonical_form(typed, canonical):
    assert str(parse(typed)) == canonical


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("A(", "before '' there is no new key="),
        ("A(1)", "before '1)' there is no new key="),
        ("A(a=1, a=2)", "before 'a=2)' there is no new key="),
        ("A(a=hard)", "'hard)' does not begin with a value; write a number, true, null, \"text\" or [1, 2]"),
        ("A(a=1)b", "'b' is not expected"),
        ("A(a=1 b=2)", "'b=2)' is not expected"),
        ("A + ", "a name is missing"),
        (" + w:B", "a name is missing"),
        ("(a=1)", "a name is missing"),
        ("A(a=" + "[" * 9000 + ")", "does not begin with a value"),
        ("A" * 10_001, "is longer than 10,000 characters"),
    ],
)
def test_a_text_in_another_form_gets_one_sentence(typed, message):
    with pytest.raises(EnvError) as error:
        parse(typed)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_arguments_are_merged_and_wrappers_added_outside():
    text = combine("A(a=1, b=2) + w:In", {"b": 3, "c": (1, np.float32(0.5))}, ["w:Out(n=1)"])
    assert text == "A(a=1, b=3, c=[1, 0.5]) + w:In + w:Out(n=1)"
    assert combine("A(a=1)", {"a": 2, "p": Path("x")}, [], below=True) == 'A(a=1, p="x")'


@pytest.mark.parametrize("value", [object(), np.zeros(2), {1: 2}, len, b"x"])
def test_an_argument_that_is_no_value_of_json_is_refused(value):
    with pytest.raises(EnvError, match=r"env_kwargs: a = .* give a function that makes the environment$"):
        combine("A", {"a": value}, [])


@pytest.mark.parametrize("name", ["a-b", "", "1a", "a=1"])
def test_a_name_that_cannot_be_an_argument_is_refused(name):
    with pytest.raises(EnvError, match="cannot be the name of an argument"):
        combine("A", {name: 1}, [])


def test_the_keys_of_config_json_are_those_that_there_are():
    assert parse("A").to_dict() == {"env": "A"}
    variant = parse("A(a=1) + w:B(n=4)")
    assert variant.to_dict() == {"env": "A", "env_kwargs": {"a": 1}, "wrappers": ["w:B(n=4)"]}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('A(mode="hard 2", n=1)', False),
        ('A(map_name="8x8")', False),
        ('A(xml_file="./ant.xml")', True),
        ('A(x=[{"y": "ant.xml"}])', True),
        ('A + w:B(loader="os:system")', True),
        (f"A(x={math.inf})".replace("inf", "Infinity"), False),
    ],
)
def test_text_that_could_be_a_path_or_a_module_is_recognized(text, names):
    assert parse(text).names_file is names


def test_a_word_is_recognized_where_there_is_such_a_module_or_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert not parse('A(env_id="evil_one", model="weights")').names_file
    (tmp_path / "evil_one.py").write_text("raise SystemExit")
    importlib.invalidate_caches()
    assert parse('A(env_id="evil_one")').names_file
    assert parse('A(x={"evil_one": 1})').names_file
    (tmp_path / "weights").write_text("")
    assert parse('A(model="weights")').names_file
    assert not parse('A(opponent="random")').names_file  # a module of Python itself
