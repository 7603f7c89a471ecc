"""Classes, functions and objects that a program gives, as text; and the environments that the text makes."""

import functools

import gymnasium as gym
import numpy as np
import pytest
import worldly
from gymnasium.wrappers import ClipReward, FrameStackObservation, TimeLimit, TransformReward

import poise
from poise import envs
from poise.agents.stages import VideoError, open_stage
from poise.envs import EnvError, as_text
from poise.envs.forms.given import again, texts_of
from poise.envs.forms.making import HERE, make_plain
from poise.envs.forms.text import combine
from poise.envs.naming import names_module, reaches_outside


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    """What a test gives is forgotten after it."""
    monkeypatch.setattr("poise.envs.forms.making.HERE", HERE)
    before = dict(HERE)
    yield
    HERE.clear()
    HERE.update(before)


def test_what_a_module_has_gets_its_name():
    assert as_text("Reacher-v5") == "Reacher-v5"
    assert as_text(worldly.Walk) == "worldly:Walk"
    assert as_text(worldly.make_walk) == "worldly:make_walk"
    assert as_text(worldly.JaxWalk) == "worldly:JaxWalk"
    assert as_text(worldly.Reach) == "worldly:Reach"
    assert as_text(functools.partial(worldly.Walk, gain=2.0)) == "worldly:Walk(gain=2.0)"
    assert as_text(functools.partial(gym.make, "Ant-v5", ctrl_cost_weight=0)) == "Ant-v5(ctrl_cost_weight=0)"
    assert texts_of([worldly.Double, functools.partial(worldly.Times, factor=2), "a:B"]) == (
        "worldly:Double",
        "worldly:Times(factor=2)",
        "a:B",
    )


def test_what_no_module_has_is_kept_under_a_readable_name():
    class Local(worldly.Walk):
        pass

    gain = 2.0
    assert as_text(Local) == "<Local>"
    assert as_text(lambda: Local()) == "<lambda>"
    assert as_text(functools.partial(worldly.Walk, label=object())) == "<Walk>"
    assert as_text(lambda: Local(gain=gain)) == "<lambda-2>"
    assert envs.resolve(Local) == envs.Resolved("<Local>", "gymnasium")
    assert make_plain("<lambda-2>").unwrapped.gain == 2.0  # pyright: ignore


def test_classes_of_one_name_that_different_backends_step_have_two_texts():
    bases = worldly.JaxWalk, worldly.Reach, worldly.Walk
    kinds = [type("Twin", (base,), {"__module__": "__main__"}) for base in bases]
    texts = [as_text(kind) for kind in kinds]
    assert texts == ["<Twin>", "<Twin-2>", "<Twin-3>"] == [as_text(kind) for kind in kinds]
    assert [envs.resolve(text).backend for text in texts] == ["native", "mujoco", "gymnasium"]


def test_the_same_function_made_again_keeps_its_name():
    def made(gain):
        return lambda: worldly.Walk(gain=gain)

    assert as_text(made(1.0)) == as_text(made(1.0)) == "<lambda>"
    assert as_text(made(2.0)) == "<lambda-2>"
    assert as_text(functools.partial(made, 1)) == as_text(functools.partial(made, 1)) == "<made>"


@pytest.mark.parametrize(
    ("env", "text"),
    [
        (lambda: gym.make("Reacher-v5"), "Reacher-v5"),
        (lambda: gym.make("Reacher-v5", render_mode="rgb_array"), "Reacher-v5"),
        (lambda: gym.make("Ant-v5", ctrl_cost_weight=0.1), "Ant-v5(ctrl_cost_weight=0.1)"),
        (lambda: gym.make("CartPole-v1", max_episode_steps=9), "CartPole-v1(max_episode_steps=9)"),
        (
            lambda: ClipReward(gym.make("Pendulum-v1", g=9.81), np.float32(-1), np.float32(1)),
            "Pendulum-v1(g=9.81) + gymnasium.wrappers.transform_reward:ClipReward(max_reward=1.0, "
            "min_reward=-1.0)",
        ),
        (lambda: worldly.Double(gym.make("Pendulum-v1")), "Pendulum-v1 + worldly:Double"),
        (
            lambda: worldly.Times(worldly.Double(gym.make("Pendulum-v1")), 4),
            "Pendulum-v1 + worldly:Double + worldly:Times(factor=4)",
        ),
    ],
)
def test_an_object_becomes_the_text_that_makes_another(env, text):
    given = env()
    assert as_text(given) == text
    other = make_plain(text)
    layers = [[type(layer) for layer in chain(e)] for e in (given, other)]
    assert [kind for kind in layers[0] if kind.__name__ != "PassiveEnvChecker"] == layers[1]
    assert given.spec is not None
    assert other.spec is not None
    assert given.spec.max_episode_steps == other.spec.max_episode_steps


def chain(env):
    yield env
    while isinstance(env, gym.Wrapper):
        env = env.env
        yield env


class Counting(worldly.Walk):
    """Each has other facts from the start, and what it is changes with its use."""

    made = 0
    wind = 0.5

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        Counting.made += 1
        self.number, self.luck = Counting.made, np.random.default_rng().random()
        self.resets, self.open, self.seed, self.window = 0, True, 0, None
        self.limits, self.options, self.unknown = np.array([1.0, 2.0]), {"lanes": [1, 2]}, np.nan

    def reset(self, *, seed=None, options=None):
        self.resets, self.seed, self.window = self.resets + 1, seed, object()
        return super().reset(seed=seed)

    def step(self, action):
        self.limits = self.limits + 0.0
        return super().step(action)

    def close(self):
        self.open = False


@pytest.fixture
def _counting():
    gym.register("Counting-v0", Counting, max_episode_steps=9)
    yield
    gym.registry.pop("Counting-v0")


def used(env):
    env.reset(seed=5)
    for _ in range(12):
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    return env


@pytest.mark.usefixtures("_counting")
@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize(
    ("id", "name", "value", "message"),
    [
        ("Pendulum-v1", "g", 0.0, r"\(PendulumEnv\) whose g is 0.0 where a new one has 10.0, and training"),
        ("Ant-v5", "_ctrl_cost_weight", 2.0, "whose _ctrl_cost_weight is 2.0 where a new one has 0.5"),
        ("Counting-v0", "gain", 3, "whose gain is 3 where a new one has 1.0.*: give env_kwargs, or a func"),
        ("Counting-v0", "wind", 0, "whose wind is 0 where a new one has 0.5"),  # of the class
        ("Counting-v0", "limits", np.array([1.0, 3.0]), r"whose limits is \[1.0, 3.0\] where"),
        ("Counting-v0", "options", {"lanes": [1, 3]}, r"whose options is \{'lanes': \[1, 3\]\} where"),
    ],
)
def test_a_setting_that_was_changed_after_gymnasium_make_is_refused(id, name, value, message, is_used):
    env = used(gym.make(id)) if is_used else gym.make(id)
    setattr(env.unwrapped, name, value)
    with pytest.raises(EnvError, match=message) as error:
        as_text(worldly.Double(env))
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("_counting")
@pytest.mark.parametrize("id", ["Pendulum-v1", "CartPole-v1", "Reacher-v5", "Acrobot-v1", "Counting-v0"])
def test_what_changes_by_use_is_no_setting(id):
    env = used(gym.make(id))
    assert as_text(env) == id
    env.close()
    assert as_text(env) == id
    assert as_text(used(gym.make(id, render_mode="rgb_array", max_episode_steps=7))) == (
        f"{id}(max_episode_steps=7)"
    )


def test_of_an_environment_that_cannot_be_played_nothing_is_said(monkeypatch):
    env = gym.make("Pendulum-v1")
    env.unwrapped.g = 0.0  # pyright: ignore[reportAttributeAccessIssue]

    def fail(*_):
        raise RuntimeError("not now")

    monkeypatch.setattr(type(env.unwrapped), "step", fail)
    assert as_text(env) == "Pendulum-v1"


def test_a_wrapper_of_this_program_is_kept():
    class Own(gym.ObservationWrapper):
        def observation(self, observation):
            return observation

    assert as_text(Own(gym.make("Pendulum-v1"))) == "Pendulum-v1 + <Own>"
    assert isinstance(make_plain("Pendulum-v1 + <Own>"), Own)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (TimeLimit(worldly.Walk(), 5), r"an object \(Walk\) .*lambda: TimeLimit\(Walk\(\.\.\.\), \.\.\.\)$"),
        (worldly.Walk(), r"an object \(Walk\) that gymnasium.make has not made.*lambda: Walk\(\.\.\.\)$"),
        (
            worldly.Unrecorded(gym.make("Pendulum-v1"), 2.0),
            "has the wrapper Unrecorded, whose arguments are not known.*give a function",
        ),
        (TransformReward(gym.make("Pendulum-v1"), abs), "TransformReward: func = .*give a function"),
        (worldly.make_two(), r"is a vector of environments \(SyncVectorEnv\).*and num_envs=N$"),
        (worldly.Double, r"is the wrapper Double: give the environment, and wrappers=\[Double\]"),
        (dict, "env = dict is a class that is not derived from gymnasium.Env"),
        (3, r"an object \(int\), and must be a name, a class derived from gymnasium.Env, poise.Task or"),
        (None, r"an object \(NoneType\), and must be a name"),
        ([worldly.Walk()], r"an object \(list\), and must be a name"),
    ],
)
def test_anything_else_is_refused_in_one_sentence(env, message):
    with pytest.raises(EnvError, match=message) as error:
        as_text(env)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrappers", "message"),
    [
        ("a:B", "must be a list, from the innermost on"),
        ([3], r"an object \(int\) must be the name module:Name"),
        ([gym.make("Pendulum-v1")], r"an object \(TimeLimit\) must be the name"),
    ],
)
def test_wrappers_are_names_classes_or_functions(wrappers, message):
    with pytest.raises(EnvError, match=message):
        texts_of(wrappers)


def test_arguments_are_those_of_the_constructor():
    text = envs.resolve("worldly:Walk(gain=2, fast=true)").id
    assert text == "worldly:Walk(fast=true, gain=2.0)"  # a float is meant
    assert make_plain(text).unwrapped.facts[:2] == [2.0, 1.0]  # pyright: ignore
    assert envs.resolve("worldly:make_walk(gain=3)").id == "worldly:make_walk(gain=3.0)"
    assert envs.resolve("Ant-v5(max_episode_steps=7)").id == "Ant-v5(max_episode_steps=7)"
    env = envs.make("Ant-v5(max_episode_steps=7)", 2)
    assert (env.spec.time_limit, env.spec.id) == (7, "Ant-v5(max_episode_steps=7)")
    env.close()


def test_own_tasks_and_environments_in_jax_take_arguments():
    for text, backend in (("worldly:JaxWalk(gain=7)", "native"), ("worldly:Reach(gain=7)", "mujoco")):
        resolved = envs.resolve(text)
        assert resolved.backend == backend
        env = envs.make(resolved.id, 2)
        env.reset(np.ones(2, bool), [0, 1])
        assert np.asarray(env.step(np.zeros((2, 1), np.float32)).reward).tolist() == [7.0, 7.0]
        env.close()


def test_wrappers_are_applied_from_the_innermost_on():
    for around, reward in ((["shifted", "Double"], 22.0), (["Double", "shifted"], 12.0)):
        text = combine("worldly:Walk", {}, [f"worldly:{name}" for name in around])
        env = envs.make(text, 1)
        env.reset(np.ones(1, bool), [0])
        assert env.step(np.zeros((1, 1), np.float32)).reward.tolist() == [reward]
        env.close()
    stacked = envs.make("worldly:Walk + gymnasium.wrappers:FrameStackObservation(stack_size=3)", 1)
    assert stacked.spec.obs_size == 15
    assert FrameStackObservation.__name__ in str(stacked.spec.id)


@pytest.mark.parametrize(
    ("text", "backend", "message"),
    [
        ("worldly:Walk(gian=1)", "auto", "has no argument 'gian'; the nearest names are gain"),
        (
            "worldly:Walk(zzz=1)",
            "auto",
            "has no argument 'zzz'; it has gain, length, fast, mode, bounds, label",
        ),
        (
            "Ant-v5(ctrl_cost=1)",
            "auto",
            "Ant-v5 has no argument 'ctrl_cost'; the nearest names are ctrl_cost_w",
        ),
        (
            "Pendulum-v1(render_mode=1)",
            "auto",
            "render_mode cannot be set, because poise sets it when it makes a video",
        ),
        (
            "Ant-v5(ctrl_cost_weight=1)",
            "mujoco",
            "mujoco has Ant-v5 only without arguments and wrappers; --ba",
        ),
        (
            "Pendulum-v1 + worldly:Double",
            "native",
            "native has Pendulum-v1 only without arguments and wrappers",
        ),
        ("worldly:JaxWalk + worldly:Double", "auto", "is not an environment of Gymnasium: no wrapper can be"),
        ("worldly:Reach(a=1)", "auto", "worldly:Reach has no argument 'a'; the nearest|; it has gain"),
        ("gymnax:CartPole-v1(a=1)", "auto", "gymnax:CartPole-v1 has neither arguments nor wrappers in poise"),
        (
            "Pendulum-v1 + Double",
            "auto",
            "wrapper Double: must be module:Name, for example gymnasium.wrappers:",
        ),
        (
            "Pendulum-v1 + worldly:Doubel",
            "auto",
            "module worldly has no 'Doubel'; the nearest names are Double",
        ),
        ("Pendulum-v1 + worldly:NUMBER", "auto", r"is an object \(int\), and must be a class or a function"),
        (
            "Pendulum-v1 + nowhere:A",
            "auto",
            "wrapper nowhere:A: its module cannot be imported: there is no now",
        ),
        ("Pendulum-v1 + worldly:Times(n=1)", "auto", "worldly:Times has no argument 'n'; it has factor"),
        (
            "Pendulum-v1 + worldly:Unrecorded",
            "auto",
            "cannot be made without factor: write worldly:Unrecorded",
        ),
        ("Nowhere-v0(a=1)", "auto", "there is no environment 'Nowhere-v0'"),
        (
            "<Gone>",
            "auto",
            "only the Python program that trained it has <Gone>; in Python, give it again: po",
        ),
        ("Pendulum-v1 + <Gone>", "auto", "only the Python program that trained it has <Gone>"),
    ],
)
def test_what_cannot_be_honored_is_refused_in_one_sentence(text, backend, message):
    with pytest.raises(EnvError, match=message) as error:
        envs.resolve(text, backend)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("worldly:make_two", "worldly:make_two returned SyncVectorEnv, and must return a gymnasium.Env; one"),
        ("worldly:make_nothing", "worldly:make_nothing returned NoneType, and must return a gymnasium.Env"),
        (
            "worldly:Walk + worldly:make_none",
            "worldly:make_none returned NoneType, and must return a gymnasium",
        ),
    ],
)
def test_a_function_has_to_return_an_environment(text, message):
    with pytest.raises(EnvError, match=message):
        envs.make(text, 1)


def test_a_function_that_makes_an_environment_of_poises_own_is_told_what_to_give(monkeypatch):
    with pytest.raises(
        EnvError, match=r"returned JaxWalk, .*: give the class itself, with env_kwargs, or the"
    ):
        envs.make(lambda: worldly.JaxWalk(gain=2.0), 1)
    with pytest.raises(EnvError, match=r"returned Reach, .* is a poise.Task: give the class itself, with"):
        envs.make(lambda: worldly.Reach(gain=2.0), 1)
    monkeypatch.setattr("poise.envs.native.names.REGISTERED", {})
    poise.register("Jump", lambda: worldly.JaxWalk(gain=2.0))  # as the sentence says
    assert envs.make("Jump", 1).spec.id == "Jump"


def test_what_this_program_alone_has_cannot_go_to_processes():
    text = as_text(lambda: worldly.Walk())
    with pytest.raises(EnvError, match=r"<lambda> is in this program alone.*give its name: my_envs:make$"):
        envs.resolve(text, "gymnasium-async")


def test_a_fast_engine_is_left_with_a_note():
    assert envs.resolve("Reacher-v2(width=64)").id == "Reacher-v4(width=64)"
    note = envs.resolve("Ant-v5(ctrl_cost_weight=0.1)").note
    assert note is not None
    assert note.endswith("is stepped by Gymnasium: poise's own Ant-v5 has neither arguments nor wrappers.")
    assert envs.resolve("CartPole-v1 + worldly:Double").note is None


def test_the_module_of_a_wrapper_counts_as_one_that_is_named():
    assert not names_module("Pendulum-v1")
    assert not names_module("gymnax:CartPole-v1")
    assert names_module("Pendulum-v1 + my:Clip")
    assert names_module("gymnax:CartPole-v1 + my:Clip")
    assert reaches_outside("Pendulum-v1(g=9.0)") is None
    assert reaches_outside('Ant-v5(xml_file="a.xml")') == "names a file or a module in an argument; to use it"


def test_what_is_given_again_stands_for_what_an_earlier_program_had():
    assert again("m:Walk(gain=2.0)", "m:Walk(gain=2.0)", []) == "m:Walk(gain=2.0)"
    assert again("worldly:Walk(gain=2.0)", worldly.Walk, []) == "worldly:Walk(gain=2.0)"
    assert again("worldly:Walk", worldly.make_walk, []) == "worldly:make_walk"
    assert again("<lambda-2>(gain=3.0) + <clip>", worldly.make_walk, [worldly.Double]) == (
        "<lambda-2>(gain=3.0) + <clip>"
    )
    assert isinstance(make_plain("<lambda-2>(gain=3.0) + <clip>"), worldly.Double)
    assert again("A-v0 + worldly:Double", "A-v0", [worldly.Double]) == "A-v0 + worldly:Double"
    assert again("A-v0", "A-v0", [worldly.Double]) == "A-v0 + worldly:Double"


def test_a_film_needs_a_function_that_takes_a_render_mode():
    for text in ("worldly:make_walk", "worldly:Walk(gain=2.0) + worldly:Double"):
        stage = open_stage(envs.resolve(text))
        assert stage.draw().shape == (8, 8, 3)
        stage.close()
    text = as_text(lambda: worldly.Walk())
    with pytest.raises(
        VideoError, match=r"no video of <lambda>: .*has no argument render_mode, which a video"
    ):
        open_stage(envs.resolve(text))
