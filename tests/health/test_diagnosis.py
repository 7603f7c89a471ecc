"""Short real trainings, each made sick in one way, and healthy ones."""

import dataclasses
import io
import json
import shlex

import gymnasium as gym
import numpy as np
import pytest

import poise
from poise.cli.main import main
from poise.config import Config
from poise.health.diagnosis import RULES, diagnose, examine, verdict
from poise.health.findings import SEVERITIES, Finding, by_severity
from poise.runs.records import RecordError, read_record
from poise.spec import Episode, Part, Spec


class Cart(gym.Env):
    """A point that is to stand at 0, and is moved by its action; ``kind`` says what is wrong with it."""

    def __init__(self, kind="sound"):
        self.kind = kind
        reach = 0.01 if kind == "tiny" else 1.0
        size = 2 if kind == "clock" else 1
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = gym.spaces.Box(-reach, reach, (1,), np.float32)
        self.steps, self.before, self.x = 0, 0.0, 0.0

    def _obs(self):
        clock = [np.exp(self.steps / 50)] if self.kind == "clock" else []
        return np.array([0.0 if self.kind == "turns" else self.x, *clock], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.before = float(self.np_random.uniform(-1, 1)), 0.0
        return self._obs(), {}

    def step(self, action):
        self.steps += 1
        action = float(action[0])
        dead = self.kind == "dies" and self.steps > 600
        self.x = 2.0 if dead else float(np.clip(self.x + 0.3 * action, -2, 2))
        reward = -abs(self.x)
        if self.kind == "silent":
            reward = 0.0
        if self.kind == "turns":  # only an action that turns around is worth something
            reward = float(abs(action) > 0.3 and action * self.before < 0)
        if self.kind == "loud":
            reward *= 1000
        self.before = action
        return self._obs(), reward, False, False, {}


for kind in ("sound", "tiny", "clock", "dies", "silent", "turns", "loud"):
    gym.register(f"Cart-{kind}-v0", Cart, max_episode_steps=25, kwargs={"kind": kind})
gym.register("Cart-endless-v0", Cart)


class Kit(gym.Env):
    """A point that an action with two parts moves: ``aim``, and ``pick`` among three values."""

    observation_space = gym.spaces.Box(-2, 2, (1,), np.float32)
    action_space = gym.spaces.Dict({"aim": gym.spaces.Box(-1, 1, (1,)), "pick": gym.spaces.Discrete(3)})

    def __init__(self, kind):
        self.kind, self.x = kind, 0.0
        if kind == "half":  # its second choice is not forced
            parts = {**self.action_space, "trim": gym.spaces.Discrete(2)}
            self.action_space = gym.spaces.Dict(parts)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = float(self.np_random.uniform(-1, 1))
        return np.array([self.x], np.float32), {}

    def step(self, action):
        pick = int(action["pick"])
        self.x = float(np.clip(self.x + 0.3 * action["aim"][0] + 0.1 * (pick - 1), -2, 2))
        reward = 10.0 * (pick == 1) if self.kind == "decided" else -abs(self.x)
        return np.array([self.x], np.float32), reward, False, False, {}

    def action_masks(self):
        usual = [self.x < 1, True, self.x > -1]
        masks = {"forced": [0, 1, 0], "half": [0, 1, 0, 1, 1], "open": [1, 1, 1]}
        return np.array(masks.get(self.kind, usual), bool)


for kind in ("decided", "forced", "half", "open", "kit"):
    gym.register(f"Cart-{kind}-v0", Kit, max_episode_steps=25, kwargs={"kind": kind})

BUDGET = {"total_steps": 6000, "num_envs": 4, "backend": "gymnasium", "video": False, "eval_max_steps": 1500}


def trained(env, out, **options):
    return poise.train(env, out=out, file=io.StringIO(), **(BUDGET | options)).folder


GRU = {"memory": "gru", "memory_size": 8}
SICK = {
    "learning-rate-too-high": ("sound", {"ppo": {"policy_learning_rate": 0.05, "anneal": "none"}}),
    "no-learning": ("sound", {"ppo": {"policy_learning_rate": 1e-9}}),
    "value-explains-nothing": ("sound", {"ppo": {"value_learning_rate": 1e-9}}),
    "value-loss-large": ("loud", {"normalize": {"reward": False, "reward_clip": None}}),
    "std-collapsed": ("sound", {"policy": {"std": "fixed", "std_init": 5e-4}}),
    "std-grown": ("sound", {"ppo": {"entropy_coef": 3.0, "policy_learning_rate": 0.01}}),
    "actions-saturated": ("tiny", {"normalize": {"action": False}}),
    "reward-constant": ("silent", {}),
    "episodes-never-end": ("endless", {"evaluate": False, "eval_max_steps": None}),
    "late-collapse": ("dies", {}),
    "greedy-worse": (
        "turns",
        {"total_steps": 12_000, "eval_max_steps": 8000, "ppo": {"policy_learning_rate": 0.003}},
    ),
    "observations-drift": ("clock", {}),
    "horizon-beyond-limit": ("sound", {"ppo": {"gamma": 0.999}}),
    "part-decided": ("decided", {"total_steps": 12_000, "ppo": {"policy_learning_rate": 0.01}}),
    "part-unchanged": ("half", {}),
    "mask-idle": ("open", {}),
    "mask-forces": ("forced", {}),
    "memory-idle": ("sound", {"policy": GRU, "ppo": {"policy_learning_rate": 1e-9}}),
}


@pytest.mark.parametrize("rule", SICK)
def test_each_rule_finds_its_problem(rule, tmp_path):
    kind, options = SICK[rule]
    folder = trained(f"Cart-{kind}-v0", tmp_path, **options)
    findings = diagnose(folder)
    assert rule in [finding.rule for finding in findings]
    (mine,) = [finding for finding in findings if finding.rule == rule]
    assert mine.severity in SEVERITIES
    assert any(character.isdigit() for character in mine.seen)
    assert rule in verdict(read_record(folder), findings)


def test_every_rule_has_a_sick_training():
    assert {rule.__name__.replace("_", "-") for rule in RULES} == set(SICK)


HEALTHY = {"InvertedPendulum-v4": 8_000, "Reacher-v4": 20_000, "Pendulum-v1": 15_000, "CartPole-v1": 15_000}


@pytest.mark.parametrize("env", HEALTHY)
def test_a_healthy_training_gives_no_finding(env, tmp_path):
    steps = HEALTHY[env]
    folder = trained(env, tmp_path, total_steps=steps, num_envs=None, backend="auto", eval_max_steps=6000)
    record = read_record(folder)
    assert diagnose(folder) == []
    assert verdict(record, []) == f"health: good ({len(RULES)} checks, {len(record.rows)} iterations)"


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return read_record(trained("Cart-sound-v0", tmp_path_factory.mktemp("sound")))


def test_the_sound_cart_is_sound(record):
    assert examine(record) == []


def test_a_hybrid_action_with_masks_and_a_memory_can_be_sound(tmp_path):
    assert diagnose(trained("Cart-kit-v0", tmp_path, policy=GRU, value=GRU)) == []


SPEC = dataclasses.replace(
    Spec.flat("Parts-v0", (1,), num_choices=2),
    action=(
        Part(("aim",), (1,), (-1.0,), (1.0,)),
        Part(("push",), (1,), (-1.0,), (1.0,)),
        Part(("pick",), (), sizes=(2,), first=(0,)),
        Part(("turn",), (), sizes=(4,), first=(0,)),
    ),
)
HEALTHY_PARTS = {
    "policy/entropy/aim": [1.4, 1.0],
    "policy/entropy/push": [1.4, 1.0],
    "policy/entropy/pick": [0.69, 0.3],
    "policy/entropy/turn": [1.38, 1.0],
    "policy/std/aim": [1.0, 0.6],
    "policy/std/push": [1.0, 0.6],
    "policy/masked_fraction": [0.3, 0.1],
    "policy/forced_fraction": [0.5, 0.9],
    "policy/memory": [None, 0.01],
    "value/memory": [0.1, 0.5],
}


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({}, []),
        ({"policy/std/push": [1.0, 5e-4]}, ["std-collapsed"]),  # the mean of both boxes is large enough
        ({"policy/std/push": [0.2, 0.7]}, ["std-grown"]),
        ({"policy/entropy/pick": [0.69, 0.006]}, ["part-decided"]),  # 0.9% of log 2
        ({"policy/entropy/pick": [0.69, 0.008]}, []),
        ({"policy/entropy/pick": [0.006, 0.006]}, ["part-unchanged"]),  # decided from the start: by the mask
        # all parts have nearly ended to vary
        (
            {
                "policy/entropy/pick": [0.69, 0.006],
                "policy/entropy/turn": [1.38, 0.4],
                "policy/entropy/aim": [1.4, -1.0],
                "policy/entropy/push": [1.4, -1.0],
            },
            [],
        ),
        ({"policy/entropy/turn": [1.38, 1.3795]}, ["part-unchanged"]),
        ({"policy/entropy/turn": [1.38, 1.37]}, []),
        ({"policy/masked_fraction": [0.0, 0.0]}, ["mask-idle"]),
        ({"policy/masked_fraction": [0.0, 1e-4]}, []),
        ({"policy/forced_fraction": [0.5, 0.96]}, ["mask-forces"]),
        ({"policy/memory": [None, 9e-4]}, ["memory-idle"]),
        ({"value/memory": [0.1, 0.009]}, ["memory-idle"]),
        ({name: [None, None] for name in HEALTHY_PARTS}, []),  # of an earlier version
    ],
)
def test_the_bounds_for_parts_masks_and_memories(record, changes, rules):
    values = HEALTHY_PARTS | changes
    rows = [
        row | {name: first if i == 0 else later for name, (first, later) in values.items()}
        for i, row in enumerate(record.rows)
    ]
    found = examine(dataclasses.replace(record, rows=rows, spec=SPEC))
    assert [finding.rule for finding in found] == rules


def test_the_advice_about_a_memory_leaves_out_its_options(record):
    network = Config.from_dict({"policy": GRU, "value": GRU}).policy
    config = dataclasses.replace(
        record.config, policy=network, value=dataclasses.replace(record.config.value, **GRU)
    )
    rows = [row | {"policy/memory": 0.0, "value/memory": 0.0} for row in record.rows]
    both = dataclasses.replace(record, rows=rows, config=config.settled(record.spec))
    (finding,) = examine(both)
    _, without = finding.fix.split("; or without it: ")
    assert "memory" not in without
    assert "sequence" not in without
    (finding,) = examine(dataclasses.replace(both, rows=[row | {"value/memory": 0.2} for row in rows]))
    _, without = finding.fix.split("; or without it: ")
    assert "--value.memory gru --value.memory-size 8" in without
    assert "--policy.memory" not in without


@pytest.mark.parametrize(
    ("kl", "clipped", "too_high"),
    [(0.003, 0.44, False), (0.03, 0.3, False), (0.03, 0.44, True), (0.06, 0.3, True)],
)
def test_a_narrow_clip_alone_is_no_high_learning_rate(record, kl, clipped, too_high):
    rows = [row | {"policy/kl": kl, "policy/clip_fraction": clipped} for row in record.rows]
    found = [finding.rule for finding in examine(dataclasses.replace(record, rows=rows))]
    assert ("learning-rate-too-high" in found) == too_high


# medians of trainings over 50,000 steps, seed 0: the rate of the defaults times ``rate``, and the mean return
# of the last quarter of the episodes. Where the return fell with the rate, the rate was too high.
RATES = [
    # dimensions, rate, KL, clip fraction, return, too high
    (8, 0.3, 0.025, 0.42, 516.5, False),  # Ant-v5
    (8, 1, 0.091, 0.66, 486.1, False),
    (8, 3, 0.918, 0.87, 54.3, True),
    (8, 10, 4.164, 0.94, -333.2, True),
    (6, 0.3, 0.016, 0.24, 1086.1, False),  # HalfCheetah-v5
    (6, 1, 0.032, 0.41, 1236.9, False),
    (6, 3, 0.166, 0.71, 1444.0, False),
    (6, 10, 1.957, 0.91, -314.3, True),
    (3, 1, 0.013, 0.19, 264.3, False),  # Hopper-v5
    (3, 3, 0.030, 0.34, 264.7, False),
    (17, 0.3, 0.066, 0.67, 437.8, False),  # Humanoid-v5
    (17, 1, 0.499, 0.86, 471.4, False),
    (17, 1, 0.57, 0.87, 512, False),  # of another tester
    (17, 3, 3.219, 0.94, 385.2, True),
    (17, 10, 1612.566, 1.0, 60.2, True),
]


@pytest.mark.parametrize(("dimensions", "rate", "kl", "clipped", "episodic_return", "too_high"), RATES)
def test_the_bound_of_the_kl_grows_with_the_dimensions_of_the_action(
    record, dimensions, rate, kl, clipped, episodic_return, too_high
):
    box = Part((), (dimensions,), (-1.0,) * dimensions, (1.0,) * dimensions)
    rows = [row | {"policy/kl": kl, "policy/clip_fraction": clipped} for row in record.rows]
    wide = dataclasses.replace(record, rows=rows, spec=dataclasses.replace(record.spec, action=(box,)))
    found = [finding for finding in examine(wide) if finding.rule == "learning-rate-too-high"]
    assert bool(found) == too_high
    for finding in found:
        assert f"0.05 for each of {dimensions} dimensions" in finding.seen


def test_a_few_iterations_say_nothing(record):
    short = dataclasses.replace(record, rows=record.rows[:3])
    assert examine(short) == []
    assert verdict(short, []) == "health: too short to judge (3 iterations, at least 4 needed)"


def with_returns(record, value):
    """The record with 100 episodes, whose returns are a function of the share of the budget that is done."""
    steps = np.linspace(1, record.steps[-1], 100)
    rng = np.random.default_rng(0)
    rows = [(int(s), value(s / steps[-1]) + rng.normal()) for s in steps]
    episodes = [Episode(0, i, s, r, 25, False) for i, (s, r) in enumerate(rows)]
    return dataclasses.replace(record, episodes=episodes)


@pytest.mark.parametrize(
    ("value", "collapsed"),
    [
        (lambda share: 100 * share, False),  # it only rises
        (lambda share: 100 if share < 0.6 else 0, True),  # also where it was good from the start
        (lambda share: 100 * share if share < 0.6 else 10, True),  # it keeps 10 of 60
        (lambda share: 100 * share if share < 0.6 else 50, False),  # it keeps 50
        (lambda share: share, False),  # within the noise
        (lambda share: -share, False),
    ],
)
def test_a_collapse_is_the_loss_of_half_of_what_was_gained(record, value, collapsed):
    found = [finding.rule for finding in examine(with_returns(record, value))]
    assert ("late-collapse" in found) == collapsed


def test_the_advice_is_a_command_with_the_options_that_differ_from_the_defaults(record):
    changed = dataclasses.replace(
        record,
        config=dataclasses.replace(
            record.config,
            ppo=dataclasses.replace(record.config.ppo, gamma=0.999, stagger_starts=False, target_kl=0.1),
            policy=dataclasses.replace(record.config.policy, hidden=(32, 16)),
        ),
    )
    words = shlex.split(changed.command(ppo__gamma=0.9, ppo__stagger_starts=True))
    assert words[:4] == ["poise", "train", "Cart-sound-v0", "--total-steps"]
    assert "--ppo.stagger-starts" not in words  # which is the default again
    assert words[words.index("--ppo.gamma") + 1] == "0.9"
    assert words[words.index("--policy.hidden") + 1 :][:2] == ["32", "16"]
    assert words[words.index("--ppo.target-kl") + 1] == "0.1"


def test_the_command_of_a_longer_rollout_keeps_the_number_of_environments(record):
    config = Config(total_steps=100_000).settled(record.spec)  # 16 environments x 128 steps
    longer = dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, num_steps=512))
    words = shlex.split(dataclasses.replace(record, config=longer).command())
    # with 512 steps alone it would be 4 environments
    assert words[-4:] == ["--ppo.num-steps", "512", "--num-envs", "16"]
    fewer = dataclasses.replace(config, num_envs=2, ppo=dataclasses.replace(config.ppo, minibatch_size=256))
    words = shlex.split(dataclasses.replace(record, config=fewer).command())
    assert words[words.index("--ppo.num-steps") + 1] == "128"  # with 2 environments alone it would be 1024
    assert words[words.index("--ppo.minibatch-size") + 1] == "256"


def test_findings_are_told_the_gravest_first():
    note, error = (Finding(name, name, "", "", "") for name in ("note", "error"))
    assert by_severity([note, error, note]) == [error, note, note]


def test_the_doctor_says_what_was_seen_what_it_means_and_what_to_try(record, tmp_path, capsys):
    folder = trained("Cart-silent-v0", tmp_path)
    main(["doctor", str(folder)])
    shown = capsys.readouterr().out
    assert "error: reward-constant\n  the reward of each of 5,888 steps was 0\n" in shown
    main(["doctor", str(folder), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told[0]["findings"][0]["rule"] == "reward-constant"
    main(["doctor", str(folder), str(record.folder)])
    shown = capsys.readouterr().out
    assert shown.startswith(f"{folder}\nerror: reward-constant\n")
    assert shown.endswith(f"\nhealth: good ({len(RULES)} checks, 23 iterations)\n")
    assert main(["doctor"]) == 2
    assert "RUN: must be one folder or more" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RecordError, match="is not a run folder"):
        diagnose(tmp_path)
