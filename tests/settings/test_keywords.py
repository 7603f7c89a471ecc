"""The keywords of ``poise.train``: the options of the command, from one table."""

import dataclasses
import inspect
import types
import typing
from pathlib import Path
from typing import Annotated, Any

import pytest

import poise
from poise.api import ExperimentKeywords, Many, SweepKeywords
from poise.checked import ConfigError
from poise.cli.main import main
from poise.cli.mistyped import names_of
from poise.cli.studies import experiment_command, sweep_command
from poise.config import PPO, Config
from poise.errors import PoiseError
from poise.runs.options import Options
from poise.settings.files import NOTHING, WORLD, Given
from poise.settings.keywords import RECORDS, Keywords, choose
from poise.studies.sweep.search import Search

OWN = (*WORLD, "config", "ray", "file", "on_iteration")  # keywords that are no options
# a keyword may also be text, any sequence, or a function
WIDER = {"out", "run_dir", "tag", "start_from", "start_parts", "demonstrations", "curriculum"}


def plain(hint: Any) -> Any:
    """The annotation without bounds."""
    if typing.get_origin(hint) is Annotated:
        return plain(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return typing.Union[tuple(map(plain, typing.get_args(hint)))]  # noqa: UP007
    return hint


def test_every_option_is_a_keyword_with_its_type():
    expected = {}
    for record in RECORDS:
        hints = typing.get_type_hints(record, include_extras=True)
        expected |= {field.name: plain(hints[field.name]) for field in dataclasses.fields(record)}
    found = typing.get_type_hints(Keywords, include_extras=True)
    assert list(found) == list(expected)
    for name, hint in expected.items():
        if dataclasses.is_dataclass(hint):
            assert hint in typing.get_args(found[name])
        elif name not in WIDER:
            assert found[name] == hint, name


def test_the_signature_of_train_shows_every_option_with_its_default():
    parameters = inspect.signature(poise.train).parameters
    assert set(typing.get_type_hints(Keywords)) == set(parameters) - {*OWN}
    assert parameters["total_steps"].default == 100_000
    assert parameters["ppo"].default == PPO()
    assert parameters["out"].default == "runs"
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def test_keywords_override_a_file_and_a_file_overrides_a_preset(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("total_steps: 50k\nppo: {clip: 0.1, lam: 0.8}\nvideo: false\nout: elsewhere\n")
    chosen = choose("paper/pendulum", file, {"ppo": {"clip": 0.3}, "out": "here", "tag": ["a", "b"]})
    assert chosen.env == "Pendulum-v0"
    assert (chosen.config.ppo.clip, chosen.config.ppo.lam, chosen.config.ppo.num_epochs) == (0.3, 0.8, 20)
    assert chosen.config.total_steps == 50_000
    assert chosen.options == Options(out=Path("here"), video=False, tag=("a", "b"))


def test_the_file_may_name_the_environment(tmp_path: Path):
    file = tmp_path / "settings.toml"
    file.write_text('env = "Pendulum-v1"\nseed = 3\n')
    assert choose(None, file, {}) == ("Pendulum-v1", Config(seed=3), Options())
    assert choose("CartPole-v1", file, {}).env == "CartPole-v1"
    with pytest.raises(ConfigError, match=r"^env: is missing; sb3 names no environment$"):
        choose(None, "sb3", {})


def test_a_file_alone_never_imports_a_module(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("env: 'tank:Tank'\n")
    with pytest.raises(
        ConfigError, match=r"names a Python module; .* give the name as well: env='tank:Tank'$"
    ):
        choose(None, file, {})
    assert choose("tank:Tank", file, {}).env == "tank:Tank"


def test_arguments_and_wrappers_override_those_of_a_file(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("env: A-v0\nenv_kwargs: {a: 1, b: [1, 2]}\nwrappers: ['m:In(n=2)', m:Out]\n")
    given = Given("A-v0(b=3)", {"c": "x"}, ("m:Mine",))
    assert choose(given, file, {}).env == 'A-v0(a=1, b=3, c="x") + m:Mine'
    assert choose("B-v0 + m:Other", file, {}).env == "B-v0(a=1, b=[1, 2]) + m:Other"
    assert choose(Given("paper/pendulum", {"g": 9.0}), None, {}).env == "Pendulum-v0(g=9.0)"
    with pytest.raises(
        ConfigError, match=r"its env 'A-v0\(.* \+ m:In\(n=2\) \+ m:Out' names a Python module"
    ):
        choose("A-v0", file, {})


def test_a_file_alone_never_names_another_file(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("env: Ant-v5\nenv_kwargs: {xml_file: /home/ant.xml}\n")
    with pytest.raises(
        ConfigError, match="names a file or a module in an argument; to use it, give the name"
    ):
        choose(None, file, {})
    given = Given(None, {"xml_file": "/home/ant.xml"})
    assert choose(given, file, {}).env == 'Ant-v5(xml_file="/home/ant.xml")'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("env_kwargs: 3", "env_kwargs = 3: must be arguments with values, as in gravity: -5"),
        ("env_kwargs: {a-b: 3}", "'a-b' cannot be the name of an argument"),
        ("env_kwargs: {a: 2026-01-01}", "a = datetime.date.* is not a number, text"),
        ("wrappers: {a: 3}", "must be a list of names, as in my_envs:Clip"),
        ("wrappers: [3]", "must be a list of names, as in my_envs:Clip"),
        ("env: A(", "there is no new key="),
    ],
)
def test_an_environment_in_another_form_is_refused_with_the_name_of_the_file(text, message, tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"settings.yaml: .*{message}"):
        choose("CartPole-v1", file, {})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("learning_rate", "no such option; in poise it is ppo.policy_learning_rate and ppo.value"),
        ("n_envs", "no such option; in poise it is num_envs"),
        ("checkpoint_evry", "no such option; did you mean checkpoint_every?"),
        ("seeds", "no such option; poise.experiment trains with several seeds$"),
        ("n_seeds", "no such option; poise.experiment trains with several seeds$"),
        ("wrapper", r"no such option; did you mean wrappers\?$"),
        ("env_wrapper", r"no such option; did you mean wrappers\?$"),
        ("vec_env_wrapper", "no such option; it is .* name it with wrappers$"),
        ("verbose", r"no such option; progress is written to file; file=io.StringIO\(\) shows nothing$"),
        ("callback", "no such option; poise.train calls on_iteration after each iteration"),
        ("hyperparams", "no such option; in poise it is config$"),
        ("env.g", "no such option; in poise it is env_kwargs$"),
        ("device_", r"no such option; did you mean device or devices\?$"),
    ],
)
def test_an_unknown_keyword_is_refused_with_what_to_write(name: str, message: str):
    with pytest.raises(ConfigError, match=f"^{name}: {message}"):
        poise.train("Pendulum-v1", **{name: 1})


@pytest.mark.parametrize(
    ("group", "name", "meant"),
    [
        ("ppo", "clip_range", "in poise it is ppo.clip "),
        ("ppo", "learning_rate", "in poise it is ppo.policy_learning_rate and ppo.value_learning_rate$"),
        ("ppo", "n_epochs", "in poise it is ppo.num_epochs$"),
        ("ppo", "batch_size", "in poise it is ppo.minibatch_size$"),
        ("ppo", "gae_lambda", "in poise it is ppo.lam$"),
        ("ppo", "ent_coef", "in poise it is ppo.entropy_coef$"),
        ("ppo", "hidden", r"did you mean policy.hidden or value.hidden\?$"),
        ("policy", "net_arch", "in poise it is policy.hidden and value.hidden$"),
        ("normalize", "norm_obs", "in poise it is normalize.obs$"),
    ],
)
def test_an_unknown_name_in_a_group_is_refused_with_what_to_write(group: str, name: str, meant: str):
    with pytest.raises(ConfigError, match=rf"^{group}\.{name}: no such option; {meant}"):
        poise.train("Pendulum-v1", **{group: {name: 1}})


def test_the_hints_of_an_experiment_are_those_of_its_own_keywords():
    for name, meant in (("num_seeds", "in poise it is seeds"), ("agianst", r"did you mean against\?")):
        with pytest.raises(ConfigError, match=f"^{name}: no such option; {meant}$"):
            poise.experiment("Pendulum-v1", **{name: 3})


def test_arguments_and_wrappers_of_an_experiment_are_of_each_environment_as_in_the_command(monkeypatch):
    asked = []

    def execute(ids: Any, *_: Any, **__: Any):
        asked.append(ids)
        raise PoiseError("asked")

    monkeypatch.setattr("poise.studies.experiment.execute_experiment", execute)
    clip, time = "gymnasium.wrappers:ClipAction", "gymnasium.wrappers:TimeAwareObservation"
    envs = ["Pendulum-v1", f"Pendulum-v1(g=3.0) + {clip}", "CartPole-v1(max_episode_steps=9)"]
    with pytest.raises(PoiseError, match="asked"):
        poise.experiment(envs, env_kwargs={"max_episode_steps": 50}, wrappers=[time])
    assert main(["experiment", *envs, "--env.max_episode_steps", "50", "--wrapper", time]) == 2
    assert asked[0] == asked[1]
    assert asked[0] == [
        f"Pendulum-v1(max_episode_steps=50) + {time}",
        f"Pendulum-v1(g=3.0, max_episode_steps=50) + {clip} + {time}",
        f"CartPole-v1(max_episode_steps=50) + {time}",
    ]


@pytest.mark.parametrize(
    ("function", "command"),
    [(poise.experiment, experiment_command(NOTHING)), (poise.sweep, sweep_command(NOTHING))],
)
def test_a_function_has_the_options_of_its_command(function: Any, command: Any):
    options, positionals = names_of(command)
    plain = {name.partition(".")[0] for name in options if not name.startswith("no_") and ".no_" not in name}
    parameters = inspect.signature(function).parameters
    own = {*WORLD, "file"}
    assert set(parameters) == ((plain | positionals) - {"json", "wrapper", "envs"}) | own
    assert parameters["video"].default is False
    assert parameters["seeds"].default == (3 if function is poise.sweep else 5)


@pytest.mark.parametrize(("record", "keywords"), [(Search, SweepKeywords), (Many, ExperimentKeywords)])
def test_the_keywords_of_many_trainings_have_the_types_of_their_record(record: type, keywords: type):
    fields = {field.name for field in dataclasses.fields(record)}
    hints = {name: hint for name, hint in typing.get_type_hints(record).items() if name in fields}
    found = {name: hint for name, hint in typing.get_type_hints(keywords).items() if name in hints}
    assert list(found) == list(hints)
    assert all(found[name] == hint for name, hint in hints.items() if name not in ("search", "against"))


def test_a_wrong_option_of_many_trainings_is_refused_before_the_first():
    with pytest.raises(ConfigError, match=r"^n_trials: no such option; in poise it is trials$"):
        poise.sweep("Pendulum-v1", n_trials=3)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ConfigError, match=r"^trials: no such option"):
        poise.experiment("Pendulum-v1", trials=3)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ConfigError, match=r"^env = \[\]: must be one environment or more"):
        poise.experiment([])
    with pytest.raises(ConfigError, match=r"^search = 'ppo.clop'"):
        poise.sweep("Pendulum-v1", search="ppo.clop")
