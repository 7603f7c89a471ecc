"""The words of a command: what options take, and what is said where that was not meant."""

import shlex

import pytest

from poise.checked import ConfigError
from poise.cli import main as cli
from poise.cli.words import Part, options_of, parts_of, places_of, refuse_misread, with_lists_joined
from poise.system.interrupts import Guard
from poise.wording import parse_number


def command(verb):
    return cli._commands(verb, [], Guard())[verb]


def joined(text):
    verb, *words = shlex.split(text)
    return shlex.join(with_lists_joined(command(verb), words))


def refusal(text):
    verb, *words = shlex.split(text)
    with pytest.raises(ConfigError) as error:
        refuse_misread(verb, command(verb), words, needs=cli._needs_word(verb, command(verb), words))
    return str(error.value)


@pytest.mark.parametrize(
    ("typed", "same"),
    [
        ("train X --tag a --seed 1 --tag b", "X --tag a b --seed 1"),
        ("train X --tag a b --tag=c --no-video", "X --tag a b c --no-video"),
        ("train X --tag a b", "X --tag a b"),
        ("sweep X --search ppo.clip --search ppo.lam=0.9:0.98", "X --search ppo.clip ppo.lam=0.9:0.98"),
        ("resume RUN --network a:A --network b:B", "RUN --network a:A b:B"),
        ("train X --wrapper a:A --wrapper b:B", "X --wrapper a:A --wrapper b:B"),
        ("train X --seed 1 --seed 2", "X --seed 1 --seed 2"),
    ],
)
def test_an_option_that_takes_several_words_may_be_repeated(typed, same):
    assert joined(typed) == same


def test_both_tags_reach_the_training(capsys, tmp_path):
    small = "--total-steps 32 --ppo.num-steps 16 --num-envs 2 --ppo.minibatch-size 16"
    small += " --no-video --no-evaluate"
    assert cli.main(shlex.split(f"train Pendulum-v1 --tag a b --tag c --out {tmp_path} {small}")) == 0
    shown = capsys.readouterr().out
    assert "1 iteration x 32" in shown
    assert "too short to judge (1 iteration, at least" in shown
    assert cli.main(["runs", str(tmp_path), "--filter", "a", "--filter", "c"]) == 0
    assert "no runs" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            "train --tag a b Pendulum-v1",
            "ENV is missing; --tag took 'a', 'b', 'Pendulum-v1': write ENV before --tag",
        ),
        ("train --start-parts policy X", "--start-parts took 'policy', 'X': write ENV before --start-parts"),
        ("train --config sb3 --tag X", "ENV is missing; --tag took 'X'"),
        ("sweep --search ppo.clip X", "ENV is missing; --search took 'ppo.clip', 'X'"),
        ("experiment --tag a X", "ENV is missing; --tag took 'a', 'X'"),
        ("evaluate --network a:B RUN", "RUN is missing; --network took 'a:B', 'RUN'"),
        ("resume --network a:B /tmp", "RUN is missing; --network took 'a:B', '/tmp'"),
        (
            "train Pendulum-v1 Reacher-v4",
            "Reacher-v4: one word too many: poise train takes one ENV (several: poise experiment)",
        ),
        ("train X --seed 1 2", "2: one word too many: --seed takes one value, and poise train takes one ENV"),
        ("train X --video no", "no: one word too many: --video takes no value"),
        ("evaluate a b", "b: one word too many: poise evaluate takes one RUN"),
        ("train X --seed", "--seed: needs a value"),
        ("train X --ppo.clip --seed 1", "--ppo.clip: needs a value"),
        ("train X --stop-at 5oo", "--stop-at: '5oo' is not a number such as 0.5, 1e-4, 500 or 500k"),
        ("train X --ppo.clip=a", "--ppo.clip: 'a' is not a number"),
        ("train X --seed 1.5", "--seed: '1.5' is not a whole number"),
        ("evaluate RUN --episodes ten", "--episodes: 'ten' is not a whole number"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_that_names_the_option(typed, said):
    message = refusal(typed)
    assert message.startswith(said) or said in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "typed",
    [
        "train X --seed -1 --ppo.clip .2 --stop-at -1e3 --max-seconds 1k",
        "train X --policy.hidden 64 64 --no-video --checkpoint-every None --tag a b",
        "resume --network a:B",
        "resume --device None RUN",
        "experiment A B C --seeds 2",
        "train X --ray --seed 1",
    ],
)
def test_a_right_command_passes(typed):
    verb, *words = shlex.split(typed)
    refuse_misread(verb, command(verb), words, needs=cli._needs_word(verb, command(verb), words))


def test_a_command_is_read_into_parts():
    words = shlex.split("X --seed=1 2 --tag=a b --no-video c --what d")
    assert parts_of(options_of(command("train")), words) == [
        Part("", ("X",)),
        Part("seed", ("1",)),
        Part("", ("2",)),
        Part("tag", ("a", "b")),
        Part("no_video", ()),
        Part("", ("c",)),
        Part("what", ()),
        Part("", ("d",)),
    ]
    assert [places_of(command(verb)) for verb in ("train", "resume", "doctor")] == [
        ["ENV"],
        ["RUN"],
        ["RUN..."],
    ]


@pytest.mark.parametrize(
    ("text", "value"), [("500k", 500_000), ("-1.5M", -1.5e6), ("1e-4", 1e-4), ("1,000", 1000), (".5", 0.5)]
)
def test_a_number_may_have_a_suffix(text, value):
    assert parse_number(text) == value
