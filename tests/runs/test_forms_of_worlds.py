"""Each form in which people have an environment, on each backend: it trains, or one sentence refuses it."""

import functools
import io
import json
import shlex

import gymnasium as gym
import numpy as np
import pytest
import worldly

import poise
from poise.agents import film
from poise.agents.agent import AgentError
from poise.agents.stages import open_stage
from poise.checked import ConfigError
from poise.envs import EnvError
from poise.envs.forms.making import HERE
from poise.settings.files import read_settings

TINY = {
    "total_steps": 64,
    "num_envs": 2,
    "ppo": {"num_steps": 16, "num_epochs": 1, "minibatch_size": 32},
    "policy": {"hidden": (8,)},
    "value": {"hidden": (8,)},
    "video": False,
    "evaluate": False,
    "compile_cache": False,
}


class Local(worldly.Walk):
    """As a class of a notebook: nothing can import it under this name."""


Local.__module__ = "__main__"


def wrapped(env):
    return worldly.Times(worldly.Double(env), 4)


# the form; what is trained on
FORMS = {
    "name": (lambda: {"env": "Walk-v0"}, "Walk-v0"),
    "module:Class": (lambda: {"env": "worldly:Walk"}, "worldly:Walk"),
    "module:function": (lambda: {"env": "worldly:make_walk"}, "worldly:make_walk"),
    "module:id": (lambda: {"env": "worldly:Walk-v0"}, "worldly:Walk-v0"),
    "class": (lambda: {"env": worldly.Walk}, "worldly:Walk"),
    "function": (lambda: {"env": worldly.make_walk}, "worldly:make_walk"),
    "partial": (lambda: {"env": functools.partial(worldly.Walk, gain=2.0)}, "worldly:Walk(gain=2.0)"),
    "lambda": (lambda: {"env": lambda: worldly.Walk(gain=2.0)}, "<lambda>"),
    "class of the notebook": (lambda: {"env": Local}, "<Local>"),
    "object": (lambda: {"env": gym.make("Walk-v0", gain=3.0)}, "Walk-v0(gain=3.0)"),
    "wrapped object": (
        lambda: {"env": wrapped(gym.make("Walk-v0"))},
        "Walk-v0 + worldly:Double + worldly:Times(factor=4)",
    ),
    "kwargs": (
        lambda: {"env": "worldly:Walk", "env_kwargs": {"gain": 2, "bounds": (1, 2)}},
        "worldly:Walk(bounds=[1, 2], gain=2.0)",
    ),
    "wrappers": (
        lambda: {"env": worldly.Walk, "wrappers": ["worldly:Double", worldly.Times, lambda env: env]},
        "worldly:Walk + worldly:Double + worldly:Times + <lambda>",
    ),
}
HERE_ALONE = {"lambda", "class of the notebook", "wrappers"}


@pytest.fixture(autouse=True)
def _registered():
    gym.register("Walk-v0", worldly.Walk, max_episode_steps=9)
    kept = dict(HERE)
    yield
    gym.registry.pop("Walk-v0")
    HERE.clear()
    HERE.update(kept)


def train(folder, **settings):
    return poise.train(**TINY, out=folder, file=io.StringIO(), **settings)  # pyright: ignore


@pytest.mark.parametrize("form", FORMS)
def test_every_form_trains_on_gymnasium(form, tmp_path):
    given, text = FORMS[form]
    run = train(tmp_path, **given())
    assert run.summary["env"] == poise.envs.resolve(text).id  # pyright: ignore[reportAttributeAccessIssue]
    assert run.summary["backend"] == "gymnasium"
    assert run.summary["steps"] == 64
    assert len(str(run.folder.parent.name)) <= 72


@pytest.mark.parametrize("form", sorted(HERE_ALONE))
def test_what_this_program_alone_has_is_refused_where_processes_start(form, tmp_path):
    given, _ = FORMS[form]
    for settings in ({"backend": "gymnasium-async"}, {"workers": 1}):
        with pytest.raises(EnvError, match=r"is in this program alone, and the processes of .*my_envs:\w+$"):
            train(tmp_path, **given(), **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
def test_arguments_and_wrappers_reach_the_processes(tmp_path):
    settings = {"env_kwargs": {"gain": 2}, "wrappers": ["worldly:Double", "worldly:shifted"]}
    rewards = []
    for backend in ("gymnasium", "gymnasium-async"):
        run = train(tmp_path, env=worldly.make_walk, backend=backend, **settings)
        assert run.summary["env"] == "worldly:make_walk(gain=2.0) + worldly:Double + worldly:shifted"
        rewards.append(run.summary["parameters_sha256"])
    assert rewards[0] == rewards[1]


@pytest.mark.parametrize(
    ("env", "backend", "runs_on"),
    [
        (worldly.JaxWalk, "auto", "native"),
        (worldly.Reach, "auto", "mujoco"),
        (worldly.JaxWalk, "native", "native"),
        (worldly.Reach, "mujoco", "mujoco"),
        (worldly.Walk, "native", "backend native has no worldly:Walk"),
        (worldly.Walk, "mujoco", "backend mujoco has no worldly:Walk"),
        (worldly.Walk, "atari", "backend atari has the games of ale-py"),
        (worldly.JaxWalk, "mujoco", "backend mujoco has no worldly:JaxWalk"),
        (worldly.Reach, "gymnasium", "worldly:Reach"),
    ],
)
def test_a_class_trains_on_the_backend_that_can_carry_it(env, backend, runs_on, tmp_path):
    if " " in runs_on or ":" in runs_on:
        with pytest.raises(EnvError, match=runs_on) as error:
            train(tmp_path, env=env, backend=backend)
        assert "\n" not in str(error.value)
        return
    gains = []
    for gain in (1.0, 7.0):
        run = train(tmp_path, env=env, backend=backend, env_kwargs={"gain": gain})
        assert run.summary["backend"] == runs_on
        rows = (run.folder / "episodes.csv").read_text().splitlines()[1:]
        gains.append({float(row.split(",")[3]) for row in rows})
    assert gains == [{5.0}, {35.0}]  # five steps each


def test_the_settings_of_a_run_repeat_it(tmp_path):
    run = train(
        tmp_path,
        env="worldly:Walk",
        env_kwargs={"gain": 2.0, "label": "new", "bounds": [0.0, np.inf]},
        wrappers=["worldly:Times(factor=2.0)"],
    )
    config = json.loads((run.folder / "config.json").read_text())
    assert config["env"] == "worldly:Walk"
    assert config["env_kwargs"] == {"bounds": [0.0, np.inf], "gain": 2.0, "label": "new"}
    assert config["wrappers"] == ["worldly:Times(factor=2.0)"]
    settings = {"video": False, "evaluate": False, "compile_cache": False, "out": tmp_path}
    again = poise.train(**config, **settings, file=io.StringIO())
    assert again.summary["parameters_sha256"] == run.summary["parameters_sha256"]
    assert read_settings(str(run.folder)).env_kwargs == config["env_kwargs"]
    other = train(tmp_path, env="worldly:Walk", env_kwargs={"gain": 3.0})
    assert other.summary["env"] != run.summary["env"]


def test_a_run_on_what_a_program_alone_has_is_resumed_and_scored_there(tmp_path):
    run = train(tmp_path, env=lambda: worldly.Walk(gain=2.0), wrappers=[lambda env: wrapped(env)])
    assert run.summary["env"] == "<lambda> + <lambda-2>"
    whole = train(tmp_path, env=worldly.Walk, env_kwargs={"gain": 2.0}, wrappers=[wrapped], seed=0)
    agent = poise.load(run.folder)
    assert (
        8 * 5 * 1 < agent.evaluate(2).summary()["mean"] <= 8 * 5 * 2
    )  # a gain of 2, five steps, rewards times 8
    resumed = poise.resume(run.folder, total_steps=96, file=io.StringIO())  # by the same program
    HERE.clear()  # as in another program
    with pytest.raises(EnvError, match=r"give it again: poise.resume\(folder, env=\.\.\.\)"):
        agent.evaluate(2)
    with pytest.raises(EnvError, match=r"give it again: poise.resume\(folder, env=\.\.\.\)"):
        poise.resume(run.folder, total_steps=128, file=io.StringIO())
    again = poise.resume(
        run.folder,
        total_steps=128,
        env=functools.partial(worldly.Walk, gain=2.0),
        wrappers=[wrapped],
        file=io.StringIO(),
    )
    assert again.summary["env"] == run.summary["env"]
    assert again.summary["steps"] == 128
    assert resumed.summary["exact"]
    assert whole.summary["parameters_sha256"] == run.summary["parameters_sha256"]


@pytest.mark.parametrize("form", ["class of the notebook", "kwargs"])
def test_what_an_interrupted_run_prints_resumes_it(form, tmp_path):
    shown = io.StringIO()

    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        poise.train(**TINY, **FORMS[form][0](), out=tmp_path, file=shown, on_iteration=interrupt)
    told = shown.getvalue().splitlines()[-1].partition("; to resume: ")[2]
    HERE.clear()  # as in another program
    if form == "kwargs":
        command = shlex.split(told)
        assert command[:2] == ["poise", "resume"]
        resumed = poise.resume(command[2], env=command[command.index("--env") + 1], file=io.StringIO())
    else:
        call = told.removeprefix("in Python, ").removesuffix(")")
        resumed = eval(f"{call}, file=io.StringIO())")  # with the names of this module
    assert resumed.summary["status"] == "finished"


@pytest.mark.parametrize(
    ("given", "env"),
    [
        ({"env": "worldly:Walk", "env_kwargs": {"gain": 2.0}}, r"env='worldly:Walk\(gain=2.0\)'$"),
        ({"env": lambda: worldly.Walk()}, r"env=\.\.\.$"),
    ],
)
def test_wrappers_are_repeated_with_their_environment(given, env, tmp_path):
    run = train(tmp_path, **given, wrappers=[worldly.Double])
    with pytest.raises(
        ConfigError, match=f"wrappers are given without env: give the environ.*{env}"
    ) as error:
        poise.resume(run, total_steps=96, wrappers=[worldly.Double], file=io.StringIO())
    assert "\n" not in str(error.value)
    again = "worldly:Walk(gain=2.0)" if "'" in env else given["env"]
    resumed = poise.resume(run, total_steps=96, env=again, wrappers=[worldly.Double], file=io.StringIO())
    assert resumed.summary["steps"] == 96


def mean(agent, env):
    return agent.evaluate(2, env=env).summary()["mean"]


def test_a_score_on_the_class_of_the_run_has_its_arguments_and_wrappers(tmp_path):
    run = train(tmp_path, env=Local, env_kwargs={"gain": 5.0}, wrappers=[lambda env: wrapped(env)])
    agent = poise.load(run.folder)
    assert mean(agent, Local) == mean(agent, run.summary["env"]) > 8 * 5 * 4
    assert mean(agent, Local()) < 5  # an object is played as it is
    assert mean(agent, worldly.Walk) < 5  # another class gets nothing of the run's
    assert mean(agent, lambda: worldly.Walk(gain=2.0)) < 10


def test_a_score_in_another_program_takes_the_class_of_the_same_name(tmp_path):
    agent = poise.load(train(tmp_path, env=Local, env_kwargs={"gain": 5.0}).folder)
    expected = mean(agent, None)
    HERE.clear()
    assert mean(agent, Local) == expected > 20
    assert mean(agent, None) == expected  # this program has it from then on
    once_more = type("Local", (worldly.Walk,), {"__module__": "__main__"})  # as of a cell that was run again
    assert mean(agent, once_more) == expected
    HERE.clear()
    assert mean(agent, type("Other", (worldly.Walk,), {"__module__": "__main__"})) < 5
    assert mean(agent, lambda: worldly.Walk()) < 5  # it may make anything


def test_a_score_on_the_class_of_a_module_repeats_its_name_and_not_those_of_wrappers(tmp_path):
    agent = poise.load(train(tmp_path, env=worldly.Walk, env_kwargs={"gain": 5.0}).folder)
    assert mean(agent, worldly.Walk) == mean(agent, "worldly:Walk(gain=5.0)") > 20
    assert mean(agent, worldly.make_walk) < 5
    around = poise.load(train(tmp_path, env=worldly.Walk, wrappers=[worldly.Double]).folder)
    with pytest.raises(AgentError, match=r"in Python: env='worldly:Walk \+ worldly:Double'\)$"):
        mean(around, worldly.Walk)
    assert mean(around, "worldly:Walk + worldly:Double") > 5


@pytest.mark.parametrize("kind", [worldly.JaxWalk, worldly.Reach])
def test_a_score_on_a_class_that_poise_steps(kind, tmp_path):
    agent = poise.load(train(tmp_path, env=kind, env_kwargs={"gain": 3.0}).folder)
    assert mean(agent, kind) == 15.0
    other = type(f"Other{kind.__name__}", (kind,), {"__module__": "__main__"})
    assert mean(agent, other) == 5.0


def test_a_film_of_the_class_of_the_run_has_its_arguments(tmp_path, monkeypatch):
    run = train(tmp_path, env=Local, env_kwargs={"gain": 5.0})
    seen = []
    monkeypatch.setattr(film, "open_stage", lambda task: seen.append(task.id) or open_stage(task))
    for env in (Local, worldly.Walk, None):
        assert poise.video(run, env=env, file=io.StringIO()).exists()
    assert seen == ["<Local>(gain=5.0)", "worldly:Walk", "<Local>(gain=5.0)"]
