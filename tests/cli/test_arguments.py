"""What people type: numbers, layers, and options that poise does not have."""

import dataclasses
import json
import re
import shlex

import pytest
import tyro

from poise.checked import Bound, ConfigError
from poise.cli import main as cli
from poise.cli import mistyped
from poise.cli.arguments import registry
from poise.cli.everyday import ALSO, EVERYDAY, LONG, REFUSED
from poise.cli.studies import sweep_command
from poise.cli.train import train_command
from poise.config import PPO, Config, Policy, Value
from poise.envs import make
from poise.runs.options import Options
from poise.settings import names, sb3
from poise.settings.files import NOTHING
from poise.settings.presets import configure
from poise.studies.sweep.space import Dimension, applied, make_space
from poise.system.interrupts import Guard
from poise.wording import parse_count, parse_layers


def parsed(text):
    """The configuration that the options of ``poise train`` make."""
    with registry:
        return tyro.cli(Config, args=shlex.split(text))


def refused(capsys, text):
    """What is said of a wrong command line."""
    try:
        code = cli.main(shlex.split(text))
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().err).split())


SAME = ["64,64", "64x64", "64 64", "[64,64]", "[64, 64]", "(64, 64)", "64 x 64", "64X64", "64, 64"]


@pytest.mark.parametrize("typed", SAME)
def test_two_layers_are_two_layers_wherever_they_are_written(typed):
    given = parsed(f"--policy.hidden {shlex.quote(typed)} --value.hidden {typed if '(' not in typed else 7}")
    assert given.policy.hidden == (64, 64)
    assert Policy(hidden=typed).hidden == (64, 64)
    assert hash(Policy(hidden=typed)) == hash(Policy(hidden=(64, 64)))
    assert configure("Reacher-v4", policy={"hidden": typed})[1].policy.hidden == (64, 64)
    assert Config.from_dict({"policy": {"hidden": typed}}).policy.hidden == (64, 64)
    written = json.loads(json.dumps(Config(policy=Policy(hidden=typed)).to_dict()))
    assert written["policy"]["hidden"] == [64, 64]
    assert Config.from_dict(written).policy.hidden == (64, 64)


def test_layers_without_quotes_may_be_several_words():
    assert parsed("--policy.hidden 64 64 --value.hidden 32").policy.hidden == (64, 64)
    assert parsed("--policy.hidden [64, 64] --value.hidden 32").value.hidden == (32,)
    assert Value(hidden=[8, 4]).hidden == (8, 4)  # pyright: ignore
    assert Value(hidden=8).hidden == (8,)  # pyright: ignore
    assert parse_layers("512,256,128") == (512, 256, 128)  # as one number it would be 512 million
    assert parse_layers("1kx1e2") == (1000, 100)


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "[]",
        "()",
        "64,",
        "64x",
        ",64",
        "64,,64",
        "64x64,256",
        "64 64,32",
        "1,024",
        "1,000",
        "[64",
        "64]",
        "[64)",
        "[[64]]",
        "64;64",
        "64_64",
        "64.5",
        "0x40_",
        "nan",
        "-",
        "64x 64 64",
        "1,000,000",
        "x",
        "64 layers",
    ],
)
def test_an_invalid_list_of_layers_is_refused_everywhere(typed, capsys):
    with pytest.raises(ValueError, match="is not a list of layers"):
        parse_layers(typed)
    with pytest.raises(ConfigError, match=r"^policy\.hidden = .* is not a list of layers: write the units"):
        Policy(hidden=typed)
    assert "is not a list of layers" in refused(
        capsys, f"train Reacher-v4 --policy.hidden {shlex.quote(typed)}"
    )


@pytest.mark.parametrize("hidden", [True, None, 6.4, (64, "64"), [True], (), "0x40", "-8", 0, {64: 64}])
def test_layers_that_no_network_can_have_are_refused(hidden):
    with pytest.raises(ConfigError, match=r"policy\.hidden = .*must be"):
        Policy(hidden=hidden)


@pytest.fixture(scope="module")
def reacher():
    return make("Reacher-v4", 1).spec


@pytest.mark.parametrize(
    ("words", "choices"),
    [
        ("64x64,256", ((64, 64), (256,))),
        ("64,256", ((64,), (256,))),
        ("[64,64],[256]", ((64, 64), (256,))),
        ("[64, 64],256,(32, 16, 8)", ((64, 64), (256,), (32, 16, 8))),
        ("64 64,256", ((64, 64), (256,))),
    ],
)
def test_in_a_search_commas_separate_networks(words, choices, reacher):
    _, (dimension,) = make_space([f"policy.hidden={words}"], Config(), reacher)
    assert dimension.choices == choices
    _, (again,) = make_space([dimension.words()], Config(), reacher)
    assert again == dimension


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("policy.hidden=64,64", "must be two or more networks, .* as in policy.hidden=64x64,256"),
        ("policy.hidden=64x64", "must be two or more networks"),
        ("policy.hidden=64x64,25a", "'25a' must be layers such as 64x64"),
        ("ppo.num-steps=1,024,2,048", "'024' must be a whole number without commas"),
    ],
)
def test_a_search_of_one_network_says_how_networks_are_written(word, message, reacher):
    with pytest.raises(ConfigError, match=message):
        make_space([word], Config(), reacher)


@pytest.mark.parametrize(
    ("text", "count"), [("1,000", 1000), ("1,000,000", 10**6), ("1,500k", 1_500_000), ("64,128", 64_128)]
)
def test_commas_stand_between_groups_of_three(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "64,64",
        "1,5M",
        "1,00",
        "1,0000",
        "1000,000",
        ",100",
        "100,",
        "64, 64",
        "1_000,000",
        "_5",
        "5_",
        "1__0",
    ],
)
def test_a_comma_anywhere_else_is_not_part_of_a_number(text):
    with pytest.raises(ValueError, match="is not a whole number"):
        parse_count(text)


@pytest.mark.parametrize(
    ("make_config", "message"),
    [
        (lambda: PPO(clip=float("inf")), "ppo.clip = inf: must be > 0 and < 1e+300"),
        (lambda: Policy(std_init=1e308), "policy.std_init = 1e+308: must be > 0 and < 1e+300"),
        (lambda: PPO(entropy_coef=float("nan")), "ppo.entropy_coef = nan: must be >= 0 and < 1e+300"),
        (lambda: PPO(gamma=float("inf")), "ppo.gamma = inf: must be >= 0 and <= 1"),
        (lambda: Config(seed=2**32), "seed = 4294967296: must be >= 0 and <= 4,294,967,295"),
        (lambda: PPO(clip=0), "ppo.clip = 0: must be > 0"),
    ],
)
def test_the_bound_that_is_named_is_the_one_that_was_broken(make_config, message):
    with pytest.raises(ConfigError) as refusal:
        make_config()
    assert str(refusal.value) == message
    assert Bound(gt=0).holds(1e299)


def test_the_config_json_of_a_run_is_a_configuration():
    config = Config(total_steps=5000, policy=Policy(hidden=(8,)))
    data = {"env": "Reacher-v4", "backend": "mujoco", **config.to_dict()}
    assert Config.from_dict(json.loads(json.dumps(data))) == config
    with pytest.raises(ConfigError, match="environment: no such option"):
        Config.from_dict(data | {"environment": "Reacher-v4"})


# --- options that poise does not have ---


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("--n-timesteps 5", "--n-timesteps: no such option; in poise it is --total-steps"),
        ("--lr-schedule linear", "--lr-schedule: no such option; in poise it is --ppo.anneal"),
        ("--ppo.clip-range lin_0.2", "--ppo.clip 0.2 --ppo.clip-schedule linear"),
        ("--ppo.clip-range 0.2", "--ppo.clip-range: no such option; in poise it is --ppo.clip "),
        ("--learning-rate=1e-3", "in poise it is --ppo.policy-learning-rate and --ppo.value-learning-rate"),
        ("--n-envs 4", "in poise it is --num-envs"),
        ("--net_arch 64", "in poise it is --policy.hidden and --value.hidden"),
        ("--cuda", "--cuda: no such option; write --device gpu"),
        ("--vf-coef 1", "see --ppo.value-learning-rate"),
        ("--gae-lambda 0.9", "in poise it is --ppo.lam"),
        ("--ent-coef 0", "in poise it is --ppo.entropy-coef"),
        ("--batch-size 64", "in poise it is --ppo.minibatch-size"),
        ("--n-steps 64", "in poise it is --ppo.num-steps"),
        ("--update-epochs 4", "in poise it is --ppo.num-epochs"),
        ("--anneal-lr", "in poise it is --ppo.anneal"),
        ("--use-sde", "--use-sde: no such option; state-dependent exploration is not there"),
        ("--verbose 1", "no such option; --json prints only the result on standard output"),
        ("--tensorboard-log x", "own TensorBoard log; --out is the folder of all runs"),
        ("--env-wrapper m:W", "in poise it is --wrapper"),
        ("--frame-stack 4", "in poise it is --history"),
        ("--clip-range-vf 1", "the value loss is not clipped"),
        ("--ppo.clop 1", "did you mean --ppo.clip"),
        ("--gamma 0.9", "did you mean --ppo.gamma?"),
        ("--hidden 64", "did you mean --policy.hidden or --value.hidden?"),
        ("--total_step 3", "did you mean --total-steps?"),
        ("--env X", "--env: is not an option; write the value alone: poise train ENV"),
        ("--exp-name x", "in poise it is --name"),
        ("--resume runs/x", "--resume: is not an option of train but a command: poise resume RUN"),
        ("--continue", "--continue: is not an option of train but a command: poise resume RUN"),
        ("--qqq", "poise: --qqq: no such option all options: poise train --help-all"),
    ],
)
def test_a_mistyped_option_is_answered_with_the_right_one(typed, answer, capsys):
    said = refused(capsys, f"train Reacher-v4 {typed}")
    assert answer in f"{said} "
    assert said.endswith("all options: poise train --help-all")


def test_all_mistyped_options_are_named_at_once_and_values_are_not_taken_for_options(capsys):
    said = refused(capsys, "train Reacher-v4 --n-envs 4 --seed -1 --n-epochs=3 --n-envs 5")
    assert said.count("no such option") == 2


def test_every_synonym_leads_to_an_option_and_is_not_one():
    options, _ = mistyped.names_of(train_command(""))
    options |= mistyped.names_of(sweep_command(NOTHING))[0] | {
        field.name for field in dataclasses.fields(Options)
    }
    last = {option.rpartition(".")[2] for option in options}
    for name, meant in names.SYNONYMS.items():
        assert name not in last
        for option in re.findall(r"(?:^|--)([a-z.-]+)", meant):
            assert option.replace("-", "_") in options, option
    assert last & names.WITHOUT.keys() == {"seeds"}  # of some verbs


def test_each_name_from_elsewhere_is_in_one_table():
    tables = (names.SYNONYMS, names.WITHOUT, sb3.WITHOUT)
    assert len({name for table in tables for name in table}) == sum(map(len, tables))
    assert not names.IN_PYTHON.keys() & names.SYNONYMS.keys()


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        (
            "sweep Pendulum-v1 --env-groups 8 --ppo.minibatch-size 100",
            "a minibatch of 100 rows cannot be shared equally",
        ),
        ("experiment Pendulum-v1 CartPole-v1 --env-groups 2", "train them in an experiment of their own"),
        ("experiment CartPole-v1 --devices 2", "--devices = 2: must be 1 on backend gymnasium"),
        ("train CartPole-v1 --seeds 2 --devices 2", "--devices = 2: must be 1 on backend gymnasium"),
    ],
)
def test_many_trainings_are_refused_groups_and_devices_before_the_first_of_them(typed, reason, capsys):
    assert reason in refused(capsys, typed)


def test_underscores_in_the_name_of_an_option_are_dashes_before_anything_reads_it():
    typed = ["train", "a_b", "--start_from", "r_s", "--ppo.clip_range=lin_0.2", "--note", "--a b_c", "-h_i"]
    typed += ["--env.max_steps", "5_0", "--env.a_b=c_d", "--num_shards=2", "--start-from=x_y"]
    assert mistyped.with_usual_names(typed) == [
        *["train", "a_b", "--start-from", "r_s", "--ppo.clip-range=lin_0.2", "--note", "--a b_c", "-h_i"],
        *["--env.max_steps", "5_0", "--env.a_b=c_d", "--env-groups=2", "--start-from=x_y"],
    ]


@pytest.mark.parametrize("typed", ["--num-shards 3", "--num_shards=3", "--env-groups 3"])
def test_an_earlier_name_of_an_option_is_understood_on_the_command_line(typed, capsys):
    assert "--env-groups = 3: must divide 16, the environments" in refused(
        capsys, f"train Pendulum-v1 {typed}"
    )


def test_an_earlier_name_of_an_option_is_understood_in_python_and_in_files(reacher):
    assert configure("Reacher-v4", num_shards=2)[1].env_groups == 2
    assert Config.from_dict({"num_shards": 2}) == Config(env_groups=2)
    base, (dimension,) = make_space(["num-shards=1,2"], Config(), reacher)
    assert dimension.name == "env_groups"
    stored = Dimension.from_dict({**dimension.to_dict(), "name": "num_shards"})
    assert applied(base, {stored.name: 2}).env_groups == 2


VERBS = [
    "train",
    "resume",
    "experiment",
    "sweep",
    "reproduce",
    "evaluate",
    "check",
    "bench",
    "envs",
    "export",
]


@pytest.mark.parametrize("verb", VERBS)
def test_the_options_that_are_known_are_those_of_the_help(verb, capsys):
    with pytest.raises(SystemExit):
        cli.main([verb, "--help-all"])
    shown = capsys.readouterr().out
    assert "None}" not in shown
    assert "(default: None)" not in shown
    assert "(default: )" not in shown
    heads = re.findall(r"^\W(?: -h,)? (--[a-z].*)$", shown, flags=re.M)
    listed = {
        name.replace("-", "_")
        for head in heads
        for name in re.findall(r"--([a-zA-Z.-]+)", head.split("  ")[0])
    }
    known, _ = mistyped.names_of(cli._commands(verb, [], Guard())[verb])
    assert known - refused_by(verb) == listed - {"help"}


def refused_by(verb):
    names = REFUSED.get(verb, set())
    return names | {f"no_{name}" for name in names}


MOST_LINES = {
    "train": 80,
    "resume": 40,
    "experiment": 76,
    "sweep": 84,
    "bench": 64,
}  # without boxes, 100 columns


def help_of(verb, option, capsys):
    """The help, and the options that it lists, with underscores."""
    with pytest.raises(SystemExit) as end:
        cli.main([verb, option])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    heads = re.findall(r"^\W(?: -h,)? (--[a-z].*)$", shown, flags=re.M)
    names = {name for head in heads for name in re.findall(r"--([a-zA-Z.-]+)", head.split("  ")[0])}
    return shown, {name.replace("-", "_") for name in names}


@pytest.mark.parametrize("verb", MOST_LINES)
def test_the_help_of_every_day_fits_two_screens_and_says_how_to_see_the_rest(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    shown, listed = help_of(verb, "--help", capsys)
    assert len(shown.splitlines()) <= MOST_LINES[verb]
    assert shown.splitlines()[-1].endswith(f"all options: poise {verb} --help-all")
    whole, every = help_of(verb, "--help-all", capsys)
    assert listed < every
    taken = mistyped.names_of(cli._commands(verb, [], Guard())[verb])[0]
    assert every - {"help"} == taken - refused_by(verb)
    assert "These are the everyday options" not in whole


def test_each_option_of_every_day_is_an_option_and_listed(capsys):
    helps = {verb: help_of(verb, "-h", capsys)[1] for verb in LONG}
    listed = set().union(*(names - ALSO.get(verb, set()) for verb, names in helps.items()))
    assert {name.rstrip("_") for name in EVERYDAY} <= listed
    assert all(names <= helps[verb] for verb, names in ALSO.items())
    assert not {name for name in listed if ".no_" not in name and not name.startswith("no_")} - {
        *(name.rstrip("_") for name in EVERYDAY),
        "help",
    }


def test_the_help_of_resume_lists_the_devices_alone(capsys):
    assert "--device {auto,cpu,gpu} " in " ".join(help_of("resume", "--help", capsys)[0].split())
    assert "invalid choice 'tpu'" in refused(capsys, "resume /nowhere --device tpu")
    assert "/nowhere" in refused(capsys, "resume /nowhere --device None")


def test_an_option_that_the_help_does_not_list_can_be_typed(capsys):
    assert "--log-every = 0: must be >= 1" in refused(capsys, "train Reacher-v4 --log-every 0")
    assert "no such option" not in refused(capsys, "sweep Reacher-v4 --trials 0 --at-once 2 --ppo.lam 0.9")


def test_the_help_says_what_stands_for_a_number_that_is_left_out(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help-all"])
    shown = " ".join(re.sub(r"[│|](?=\n| )", " ", capsys.readouterr().out).split())
    assert "--num-envs INT Environments stepped together, N. (default: 16, or fewer if" in shown
    assert "--ppo.target-kl FLOAT" in shown
    assert "are skipped. (default: never)" in shown
    for record in (Config(), PPO(), Policy(), Options()):
        for field in dataclasses.fields(record):
            if getattr(record, field.name) is None:
                option = f"--{record.prefix}{field.name}".replace("_", "-")
                assert re.search(rf"{option} [A-Z]+ [^│]+?\(default: \w", shown), option
