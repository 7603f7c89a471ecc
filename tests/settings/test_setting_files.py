"""Settings in files: what is read, what is refused, and what a training does with them."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

import poise
from poise.checked import ConfigError, flat
from poise.cli.main import main
from poise.config import PPO, Config, Policy, Value
from poise.runs.options import Options
from poise.settings.files import as_yaml, nested, read_settings
from poise.settings.keywords import choose

YAML = """
env: CartPole-v1
total-steps: 10k
ppo.clip: 0.1
ppo: {num_epochs: 3, policy_learning_rate: 3e-4}
policy:
  hidden: 32x16
value: {hidden: [8]}
checkpoint_every: 1e4
out: elsewhere
normalize: {obs_clip: None, reward_clip: auto}
num_shards: 2
"""
JSON = """{"env": "CartPole-v1", "total_steps": 10000, "ppo": {"clip": 0.1, "num_epochs": 3,
"policy_learning_rate": 0.0003}, "policy": {"hidden": [32, 16]}, "value": {"hidden": [8]},
"checkpoint_every": 10000, "out": "elsewhere", "normalize": {"obs_clip": null, "reward_clip": "auto"},
"env_groups": 2}"""
TOML = """env = "CartPole-v1"
total_steps = 10_000
checkpoint_every = "10k"
out = "elsewhere"
env_groups = 2
ppo.clip = 0.1
[ppo]
num_epochs = 3
policy_learning_rate = 3e-4
[policy]
hidden = "32x16"
[value]
hidden = 8
[normalize]
obs_clip = "None"
reward_clip = "auto"
"""


@pytest.fixture
def file(tmp_path):
    def write(text, name="settings.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", YAML),
        ("b.json", JSON),
        ("c.toml", TOML.replace("ppo.clip = 0.1\n[ppo]", "[ppo]\nclip = 0.1")),
    ],
)
def test_the_three_formats_say_the_same(file, name, text):
    settings = read_settings(file(text, name))
    assert settings.env == "CartPole-v1"
    config = settings.over(Config(seed=7))
    assert config == Config(
        seed=7,
        total_steps=10_000,
        env_groups=2,
        ppo=PPO(clip=0.1, num_epochs=3, policy_learning_rate=3e-4),
        policy=Policy(hidden=(32, 16)),
        value=Value(hidden=(8,)),
        normalize=config.normalize,
    )
    assert (config.normalize.obs_clip, config.normalize.reward_clip) == (None, "auto")
    options = settings.options_over(Options(video=False))
    assert (options.checkpoint_every, str(options.out), options.video) == (10_000, "elsewhere", False)


def test_every_option_survives_the_way_through_a_file(file):
    """Each is changed, written and read again."""
    changed = flat(Config().to_dict()) | {
        "total_steps": 7_000,
        "ppo.target_kl": 0.01,
        "policy.hidden": (3, 5),
    }
    read = read_settings(file(as_yaml(changed, "a comment"))).over(Config())
    assert read == Config.from_dict(nested(changed))


REFUSED = {
    "ppo: {clip_range: 0.3}": r"ppo\.clip_range: no such option; in poise it is ppo\.clip",
    "verbose: 1": r"verbose: no such option; --json prints only the result on standard output$",
    "seeds: 3": r"seeds: no such option; --seeds is an option of poise train, experiment and sweep$",
    "wrapper: m:W": r"wrapper: no such option; did you mean wrappers\?$",
    "lerning_rate: 1": r"lerning_rate: no such option; did you mean ",
    "ppo: {clip: 0.3}\nppo.clip: 0.2": r"ppo\.clip: appears twice$",
    "ppo: {clip: 0.3, clip: 0.2}": r"clip appears twice, line 1$",
    "ppo: 3": r"ppo: no such option",
    "ppo: {clip: {x: 1}}": r"ppo\.clip\.x: no such option",
    "ppo: {clip: -1}": r"ppo\.clip = -1: must be > 0",
    "ppo: {clip: wide}": r"ppo\.clip = 'wide': must be a number",
    "total_steps: 1.5": r"total_steps = 1\.5: must be a whole number",
    "video: sometimes": r"video = 'sometimes': must be true or false",
    "env: [a]": r"env = \('a',\): must be the name|env = \['a'\]: must be the name",
    "- 1": r"must be a list of options with values",
    "a: [": r"cannot be read: ",
    "!!python/object/apply:os.system ['true']": r"cannot be read: could not determine a constructor",
    "a: &a [*a]": r"a: must be one value, or a list of values",
    "a: [[1]]": r"a: must be one value, or a list of values",
    f"seed: {'9' * 4000}": r"seed = 9{200}: must be >= 0",
    f"seed: {'9' * 5000}": r"cannot be read: Exceeds the limit",
    "a: &a {a: *a}": r"too many groups within each other",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_wrong_is_named_with_its_file(file, text):
    path = file(text)
    with pytest.raises(ConfigError, match=rf"^{path}: .*{REFUSED[text]}"):
        read_settings(path)


def test_numbers_are_those_of_yaml_1_2(file):
    """YAML 1.1 reads 010 as 8 and 1:30 as 90."""
    read = read_settings(
        file("ppo: {anneal: '0:1,1:0', clip: .5}\nseed: 10\ntotal_steps: 1e4\nnum_envs: 1_6")
    )
    assert read.config == {
        "ppo.anneal": "0:1,1:0",
        "ppo.clip": 0.5,
        "seed": 10,
        "total_steps": 10_000,
        "num_envs": 16,
    }
    with pytest.raises(ConfigError, match=r"eval_max_seconds = '1:30': must be a number"):
        read_settings(file("eval_max_seconds: 1:30"))
    assert read_settings(file("note: 010\nname: 1:30")).options == {"note": "010", "name": "1:30"}


def test_a_file_of_json_may_begin_with_a_byte_order_mark(file):
    assert read_settings(file('\ufeff{"seed": 3}', "a.json")).config == {"seed": 3}


def test_other_options_may_complete_what_a_file_begins(file, tmp_path, capsys):
    """A size of a memory, whose kind the command adds; a rollout that is larger than the usual budget."""
    memory, rollout = "policy: {memory_size: 32}", "num_envs: 64\nppo: {num_steps: 2048}"
    command = ["train", "CartPole-v1", "--json", "--out", str(tmp_path), "--config"]
    assert main([*command, file(memory)]) == 2
    assert "memory-size = 32: has no effect with --policy.memory = none" in capsys.readouterr().err
    chosen = choose("CartPole-v1", file(memory), {"policy": {"memory": "gru"}})
    assert (chosen.config.policy.memory, chosen.config.policy.memory_size) == ("gru", 32)
    assert choose("CartPole-v1", file(rollout), {"total_steps": 1_000_000}).config.rollout_size == 131_072
    small = file("total_steps: 100\nnum_envs: 8\nppo: {num_steps: 64}\nvideo: false\nevaluate: false\n")
    assert main([*command, small, "--total-steps", "512"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 512


@pytest.mark.parametrize("text", ['{"seed": 1, "seed": 2}', '{"ppo": {"clip": 0.1}, "ppo": {"gamma": 0.9}}'])
def test_an_option_twice_in_json_is_refused(file, text):
    with pytest.raises(ConfigError, match=r"(seed|ppo) appears twice"):
        read_settings(file(text, "a.json"))


@pytest.mark.parametrize("text", ["seed: !!int ''", "seed: !!map [a, b]", "seed: !!bool foo"])
def test_a_tag_that_does_not_fit_is_refused(file, text):
    with pytest.raises(ConfigError, match="cannot be read: "):
        read_settings(file(text))


def test_a_file_of_many_aliases_is_refused_before_it_fills_the_memory(file):
    """Ten levels of ten references each: 10**10 options."""
    levels = ["l0: &l0 {x: 1}"]
    levels += [f"l{i}: &l{i} {{{', '.join(f'k{j}: *l{i - 1}' for j in range(10))}}}" for i in range(1, 11)]
    with pytest.raises(ConfigError, match=r"more than 1,000 options|too many groups"):
        read_settings(file("\n".join(levels)))


@pytest.mark.parametrize("name", ["a.txt", "missing.yaml"])
def test_a_file_of_another_kind_is_refused(tmp_path, name):
    (tmp_path / "a.txt").write_text("x: 1")
    with pytest.raises(ConfigError, match=r"must be a file \(\.yaml, .*one of: sb3|cannot be read: No such"):
        read_settings(str(tmp_path / name))


SMALL = "env: CartPole-v1\ntotal_steps: 256\nppo: {num_steps: 32, clip: 0.3}\nvideo: false\nevaluate: false\n"


def test_a_command_takes_its_options_from_the_file_and_counts_its_own_more(file, tmp_path, capsys):
    out = str(tmp_path / "runs")
    assert main(["train", "--config", file(SMALL), "--out", out, "--ppo.clip", "0.1", "--json"]) == 0
    run = json.loads(capsys.readouterr().out)["folder"]
    config = json.loads((tmp_path / "runs" / run / "config.json").read_text())
    assert (config["env"], config["total_steps"], config["ppo"]["num_steps"]) == ("CartPole-v1", 256, 32)
    assert config["ppo"]["clip"] == 0.1  # not 0.3

    # the folder of the run is a file of settings, too, and repeats it
    assert main(["train", f"--config={run}", "--no-video", "--no-evaluate", "--out", out, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    first = json.loads((tmp_path / "runs" / run / "summary.json").read_text())
    assert again["parameters_sha256"] == first["parameters_sha256"]

    # what ``poise config`` prints does the same
    assert main(["config", run]) == 0
    printed = file(capsys.readouterr().out, "printed.yaml")
    assert read_settings(printed).over(Config()) == Config.from_dict(config)


def test_options_without_effect_are_skipped_where_the_file_says_so(file, tmp_path, capsys):
    deviation = "policy: {std_init: 0.5}\nnormalize: {action: false}\n"
    options = ["--out", str(tmp_path / "runs"), "--json"]
    assert main(["train", "--config", file(SMALL + deviation), *options]) == 2
    assert "--policy.std-init = 0.5: has no effect on the discrete actions" in capsys.readouterr().err
    assert main(["train", "--config", file(SMALL + deviation + "unused: skip\n"), *options]) == 0
    printed = capsys.readouterr()
    assert (
        "note: policy.std_init has no effect on the discrete actions of CartPole-v1: skipped" in printed.err
    )
    config = json.loads((tmp_path / json.loads(printed.out)["folder"] / "config.json").read_text())
    assert (config["policy"]["std_init"], config["normalize"]["action"]) == (None, True)
    assert config["unused"] == "refuse"  # nothing is left to skip


def test_a_file_alone_never_makes_poise_import_a_module(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')")
    path = file("env: mine:Task\n")
    assert main(["train", "--config", path]) == 2
    said = capsys.readouterr().err
    assert "names a Python module; to import and run it: poise train mine:Task --config" in " ".join(
        said.split()
    )
    assert main(["train", "mine:Task", "--config", path]) != 0  # it is imported, and fails
    assert "imported" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["start_from", "demonstrations"])
def test_the_folder_of_a_run_alone_names_no_other_file_to_read(name, tmp_path, capsys):
    other = "elsewhere/run" if name == "start_from" else "elsewhere/shown.npz"
    (tmp_path / "config.json").write_text(json.dumps({"env": "CartPole-v1", name: other}))
    assert main(["train", "--config", str(tmp_path)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"is '{other}'; to read that, give it as well: --{name.replace('_', '-')} {other}" in said
    with pytest.raises(ConfigError, match=f"give it as well: {name}='{other}'"):
        choose(None, tmp_path, {})
    (tmp_path / "config.json").write_text('{"run_dir": "elsewhere"}')
    with pytest.raises(ConfigError, match="run_dir: is not a setting that a run keeps"):
        choose("CartPole-v1", tmp_path, {})


def test_none_undoes_what_a_folder_names_and_nothing_of_it_is_read(tmp_path):
    folder = {"seed": 3, "start_from": "nowhere", "start_sum": "abc", "curriculum": "nowhere:widen"}
    (tmp_path / "config.json").write_text(json.dumps(folder))
    chosen = choose("CartPole-v1", tmp_path, {"start_from": None, "curriculum": None})
    assert chosen.config == Config(seed=3)
    with pytest.raises(ConfigError, match="give it as well: curriculum='nowhere:widen'"):
        choose("CartPole-v1", tmp_path, {"start_from": None})


def test_what_a_training_returned_is_a_file_of_settings(tmp_path):
    (tmp_path / "config.json").write_text('{"env": "CartPole-v1", "seed": 3}')
    run: Any = SimpleNamespace(folder=tmp_path)
    chosen = choose(None, run, {})
    assert (chosen.env, chosen.config) == ("CartPole-v1", Config(seed=3))
    with pytest.raises(ConfigError, match=r"^config = 3: must be a path$"):
        poise.train("CartPole-v1", config=3)  # pyright: ignore[reportArgumentType]


def test_arguments_of_an_environment_are_bounded(file):
    levels = ["l0: &l0 [1, 1]", *(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 8))]
    for text in ("env_kwargs: &a {x: *a}", "env_kwargs: {" + ", ".join(levels) + "}"):
        with pytest.raises(ConfigError, match=r"must be at most 1,000 values, 16 within each other"):
            read_settings(file(f"env: CartPole-v1\n{text}\n"))


def test_the_config_option_is_refused_twice_and_without_a_file(file, capsys):
    path = file(SMALL)
    assert main(["train", "--config", path, "--config", path]) == 2
    assert "appears twice" in capsys.readouterr().err
    assert main(["train", "CartPole-v1", "--config"]) == 2
    assert "--config: needs a value" in capsys.readouterr().err
