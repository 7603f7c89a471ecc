"""``--env.KEY VALUE``: what text becomes, by the annotations and defaults of a constructor."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Optional

import gymnasium as gym
import pytest
import worldly

from poise.checked import ConfigError
from poise.cli.arguments import EnvArguments, World, with_env_arguments
from poise.cli.main import main
from poise.envs import EnvError
from poise.envs.forms.arguments import arguments_of
from poise.envs.registry import read_arguments


class Env:
    def __init__(
        self,
        a: bool,
        b: int = 3,
        c: float | None = None,
        d: Literal["x", "y", 2] = "x",
        e: Optional[list[int]] = None,  # noqa: UP045 (as many write it)
        f: Sequence[float] = (),
        g: dict[str, Any] | None = None,
        h=-10,
        i=2.5,
        j=None,
        k="text",
        m: str | None = None,
        n: "not_there" = 1,  # pyright: ignore
        o: int | str = 1,
        p: Callable[[], int] | None = None,
    ):
        pass


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("a", "true", True),
        ("a", "False", False),
        ("b", "100k", 100_000),
        ("b", "-5", -5),
        ("c", "5", 5.0),
        ("c", "1e-3", 0.001),
        ("c", "None", None),
        ("d", "y", "y"),
        ("d", "2", 2),
        ("e", "1,2", [1, 2]),
        ("e", "[1, 2]", [1, 2]),
        ("e", "null", None),
        ("f", "0.5,1", [0.5, 1]),
        ("g", '{"duration": 20}', {"duration": 20}),
        ("h", "-9.8", -9.8),
        ("h", "-9", -9),
        ("i", "3", 3.0),
        ("j", "true", True),
        ("j", "7", 7),
        ("j", "hello", "hello"),
        ("k", "7", "7"),
        ("m", "7", "7"),
        ("m", "None", None),
        ("n", "7", 7),
        ("o", "7", 7),
        ("o", "seven", "seven"),
    ],
)
def test_text_becomes_a_value_by_annotation_and_default(key, text, value):
    read = arguments_of(Env).read("Env", key, text)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("a", "yes", "--env.a = 'yes': must be true or false"),
        ("b", "2.5", "--env.b = '2.5': must be a whole number"),
        ("c", "fast", "--env.c = 'fast': must be a number or None"),
        ("d", "z", "--env.d = 'z': must be 'x' or 'y' or 2"),
        ("e", "3", "--env.e = '3': must be a list such as 1,2 or [1,2] or None"),
        ("zz", "3", "Env has no argument 'zz'; it has a, b, c"),
        (
            "render_mode",
            "human",
            "Env: render_mode cannot be set, because poise sets it when it makes a video",
        ),
    ],
)
def test_text_that_is_no_such_value_gets_one_sentence(key, text, message):
    with pytest.raises(EnvError) as error:
        arguments_of(Env).read("Env", key, text)
    assert str(error.value).startswith(message)


def test_keyword_arguments_are_those_of_the_classes_behind():
    class Base:
        def __init__(self, width: int, depth: int = 2):
            pass

    class Derived(Base):
        def __init__(self, height: float = 1.0, **others):
            super().__init__(3, **others)

    class Open(gym.Env):
        def __init__(self, **anything):
            pass

    derived = arguments_of(Derived)
    assert (list(derived.known), derived.open) == (["height", "width", "depth"], False)
    assert derived.fitted("Derived", {"depth": 5}) == {"depth": 5}  # width is passed on
    assert arguments_of(Open).open
    assert arguments_of(Open).fitted("Open", {"any": 1}) == {"any": 1}
    assert arguments_of(worldly.Times, first=True).known.keys() == {"factor"}
    assert arguments_of(worldly.Double, first=True).known == {}


def test_the_arguments_of_a_registered_id_have_its_types():
    assert read_arguments("Pendulum-v1", ["g=5", "max_episode_steps=9"]) == {"g": 5.0, "max_episode_steps": 9}
    assert read_arguments("worldly:Walk", ["bounds=1,2", "label=None"]) == {"bounds": [1, 2], "label": None}
    assert read_arguments("worldly:JaxWalk", ["gain=2"]) == {"gain": 2.0}
    assert read_arguments("worldly:Reach", ["gain=2"]) == {"gain": 2.0}


def test_options_of_the_environment_are_rewritten():
    words = ["train", "A", "--env.g", "-5", "--seed", "1", "--env.max-steps=a=b", "--env", "X"]
    assert with_env_arguments(words) == [
        "train",
        "A",
        "--env.KEY",
        "g=-5",
        "--seed",
        "1",
        "--env.KEY",
        "max_steps=a=b",
        "--env",
        "X",
    ]
    for words in (["--env.fast"], ["--env.fast", "--seed", "1"]):
        with pytest.raises(ConfigError, match=r"^--env.fast: needs a value, as in --env.fast true$"):
            with_env_arguments(words)


def test_arguments_and_wrappers_make_one_text():
    world = World(env=EnvArguments(KEY=("g=5",)), wrapper=("worldly:Double", "worldly:Times(factor=2)"))
    assert world.of("Pendulum-v1") == "Pendulum-v1(g=5.0) + worldly:Double + worldly:Times(factor=2)"
    width = World(env=EnvArguments(KEY=("width=64",)))
    assert width.of("paper/reacher") == "paper/reacher(width=64)"
    assert World().of("Pendulum-v1(g=1) + worldly:Double") == "Pendulum-v1(g=1) + worldly:Double"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["train", "Pendulum-v1", "--env.gg", "3"],
            "Pendulum-v1 has no argument 'gg'; it has g, max_episode",
        ),
        (["train", "Pendulum-v1", "--env.g", "fast"], "--env.g = 'fast': must be a number"),
        (["train", "Pendulum-v1", "--wrapper", "Clip"], "wrapper Clip: must be module:Name, for example"),
        (
            ["check", "Pendulum-v1", "--wrapper", "worldly:Doubel"],
            "module worldly has no 'Doubel'; the nearest",
        ),
        (["sweep", "Pendulum-v1", "--env.g"], "--env.g: needs a value, as in --env.g true"),
        (
            ["bench", "Pendulm-v1", "--env.g", "3"],
            "there is no environment 'Pendulm-v1'; the nearest names are",
        ),
        (
            ["experiment", "Pendulum-v1", "CartPole-v1", "--env.g", "3"],
            "CartPole-v1 has no argument 'g'; it has",
        ),
        (
            ["evaluate", "runs/x", "--env.g", "3"],
            "--env.g: no such option; write the whole environment with its",
        ),
        (
            ["train", "Pendulum-v1", "--env-kwargs", "3"],
            "--env-kwargs: no such option; write --env.KEY VALUE",
        ),
    ],
)
def test_a_mistake_on_the_command_line_gets_one_sentence(words, message, capsys, tmp_path):
    out = ["--out", str(tmp_path)] if words[0] in ("train", "sweep", "experiment") else []
    assert main([*words, *out]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
