"""Each kind of observation and action that docs/observations.md names is trained by the command alone."""

import shlex

import kinds
import numpy as np
import pytest

from poise.cli.main import main

TINY = (
    "--total-steps 512 --num-envs 2 --ppo.num-steps 128 --ppo.num-epochs 1 --ppo.minibatch-size 128 "
    "--policy.hidden 8 --value.hidden 8 --no-video --no-evaluate"
)
MEMORY = "--policy.memory {} --policy.memory-size 4 --value.memory {} --value.memory-size 4"
REMEMBERS = (
    "memory (policy: {} of 4 units, value function: {} of 4 units), learning from sequences of 128 steps"
)
ALLOWED = "action_mask (which choices are allowed)"
ANY = None  # a bound that is not there

# of each: its options, the first lines about it, and what the environment is given: type, shape, bounds
KINDS = {
    "Scalar": ("", [], {"action": ("float32", (), [-2], [3])}),
    "Table": ("", [], {"action": ("float64", (3,), [-0.1, ANY, 0], [0.1, ANY, ANY])}),
    "Last": (
        "",
        ["observes image (6 x 7 x 3 image, channels last)"],
        {"action": ("int64", (), [5], [7])},
    ),
    "First": (
        "",
        [f"observes image (2 x 7 x 6 image, channels first), {ALLOWED}"],
        {"action": ("int64", (2,), [0, 4], [2, 5])},
    ),
    "Field": ("", [f"observes obs (4 values), {ALLOWED}"], {"action": ("int8", (2,), [0, 0], [1, 1])}),
    "Dials": (
        MEMORY.format("gru", "lstm"),
        ["observes obs (3 x 2 values)", REMEMBERS.format("gru", "lstm")],
        {"action": ("int8", (2, 2), [0] * 4, [1] * 4)},
    ),
    "Lamps": (
        MEMORY.format("lstm", "gru"),
        [REMEMBERS.format("lstm", "gru")],
        {"action": ("float64", (2, 2), [-1] * 4, [1] * 4)},
    ),
    "Robot": (
        "",
        [
            "observes 0.arm (2 numbers), 0.tool (3 values), 1 (2 numbers)",
            "acts by aim (2), keys.0 (3 choices), keys.1 (2 x 2 choices), keys.2 (2 x 2 choices)",
        ],
        {
            "action.aim": ("float64", (2,), [-2, -2], [2, 2]),
            "action.keys.0": ("int64", (), [1], [3]),
            "action.keys.1": ("int8", (2,), [0, 0], [1, 1]),
            "action.keys.2": ("int64", (2,), [0, 7], [1, 8]),
        },
    ),
    "Guided": (
        "",
        [
            "note: observation 'order' is Text: it is left out, because no network reads it",
            f"observes place (2 numbers), {ALLOWED}",
        ],
        {"action": ("int64", (), [0], [2])},
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_trained_by_the_command(name, capsys, tmp_path):
    """Choices take all their values; a box gets real numbers within its bounds, and beyond 1 without."""
    options, lines, arrays = KINDS[name]
    kinds.given.pop(name, None)
    code = main(shlex.split(f"train kinds:{name} {TINY} {options} --out {tmp_path}"))
    shown = capsys.readouterr()
    assert code == 0, shown.err
    said = shown.out.splitlines()
    start = next(i for i, line in enumerate(said) if line.startswith("discount "))
    assert said[start + 1 : start + 1 + len(lines)] == lines
    following = said[start + 1 + len(lines)]
    assert following.startswith("compiling") or " / 512 steps" in following
    assert kinds.given[name].keys() == arrays.keys()
    for path, (dtype, shape, low, high) in arrays.items():
        given = kinds.given[name][path]
        assert given.forms == {(dtype, shape, True)}
        if dtype.startswith("int"):
            assert (given.low, given.high) == (low, high)
        for least, most, bottom, top in zip(given.low, given.high, low, high, strict=True):
            assert least < -1 if bottom is ANY else least >= bottom
            assert most > 1 if top is ANY else most <= top
            assert np.isfinite([least, most]).all()


def test_a_text_alone_is_refused_in_one_sentence(capsys, tmp_path):
    code = main(shlex.split(f"train kinds:Words {TINY} --out {tmp_path}"))
    shown = capsys.readouterr()
    assert code == 2
    (line,) = shown.err.splitlines()
    assert line.startswith("poise: kinds:Words: observation space Text(1, 5")
    assert line.endswith("is not supported: no network reads Text")
    assert "compiling" not in shown.out
    assert list(tmp_path.iterdir()) == []
