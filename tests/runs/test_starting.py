"""Training starts from another agent, or from demonstrations, and needs neither again when it resumes."""

import dataclasses
import io
import json
import re
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import first_state

import poise
from poise.arrays import named
from poise.checked import ConfigError, flat
from poise.cli import train
from poise.cli.main import main
from poise.cli.settings import settings_of
from poise.config import PPO, Config, Normalize, Policy, Value
from poise.envs import resolve
from poise.runs.folders import RunError
from poise.runs.options import Options
from poise.runs.session import session
from poise.runs.setup import Conditions, Setup
from poise.runs.starting.demonstrations import read_demonstrations, read_npz
from poise.runs.starting.initial import first_start, read_start
from poise.runs.starting.repeating import ALL, Repeated, check_repeated, resume_command
from poise.runs.starting.source import OF_PARTS, read_source
from poise.settings.keywords import choose
from poise.spec import Spec
from poise.store.checkpoint import CheckpointError, Trained, checkpoints, load_agent, load_training
from poise.system.interrupts import Guard
from poise.training.starting.cloning import Demonstrations, clone

TINY = Config(
    total_steps=3 * 96,
    num_envs=3,
    ppo=PPO(num_steps=32, num_epochs=2, minibatch_size=32),
    policy=Policy(hidden=(8,)),
    value=Value(hidden=(6,)),
)
PLAIN = Options(video=False, evaluate=False, checkpoint_every=1)
STATE = ("policy", "value", "normalizer")


def play(folder, config, env="Reacher-v5", stop=None):
    """Trains in ``folder``, to the end or until an iteration has ended."""
    folder.mkdir(exist_ok=True)
    training = session(env, config, PLAIN, folder, Conditions(io.StringIO(), Guard()))
    while True:
        try:
            progress = next(training)
        except StopIteration as end:
            return end.value.summary
        if progress is not None and progress.iteration == stop:
            training.close()
            return None


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "run"
    play(folder, dataclasses.replace(TINY, seed=7))
    return folder


def started(source, **changes):
    """The first state of a training that starts from the source, and that of one with random networks."""
    chosen = choose("Reacher-v5", None, {"total_steps": 288, "num_envs": 3, "start_from": source, **changes})
    config = dataclasses.replace(chosen.config, ppo=TINY.ppo)
    spec = load_agent(checkpoints(source)[0])[1].spec
    setup = Setup(resolve("Reacher-v5"), spec, config.settled(spec), PLAIN)
    setup, initial = read_start(setup, io.StringIO())
    start = first_start(setup, initial)
    return setup, start.state, first_state(spec, setup.config)


def arrays(state, part):
    return {n: np.asarray(a) for n, a in named(Trained.of(state)).items() if n.startswith(f"{part}.")}


@pytest.mark.parametrize("parts", [STATE, ("policy", "normalizer"), ("value",)])
def test_the_parts_that_are_chosen_are_the_agents_and_the_others_random(source, parts):
    trained, _ = load_agent(checkpoints(source)[0])
    _, state, random = started(source, start_parts=parts)
    for part in STATE:
        expected = {n: np.asarray(a) for n, a in named(trained).items() if n.startswith(f"{part}.")}
        expected = expected if part in parts else arrays(random, part)
        assert arrays(state, part).keys() == expected.keys()
        for name, array in arrays(state, part).items():
            np.testing.assert_array_equal(array, expected[name], err_msg=name)
    for a, b in zip(
        jax.tree.leaves((state.learner.policy_opt, state.learner.value_opt)),
        jax.tree.leaves((random.learner.policy_opt, random.learner.value_opt)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)  # the optimizers are fresh
    assert state.iteration == 0


def test_statistics_continue_with_their_count(source):
    _, state, _ = started(source)
    assert float(state.normalizer.obs.count) == 288
    assert float(state.normalizer.ret.count) == 288


def test_options_that_are_not_given_are_the_agents(source):
    for config in (
        choose("Reacher-v5", None, {"start_from": source}).config,
        settings_of(["Reacher-v5", "--start-from", str(source)]).over(Config()),
        settings_of([f"--start-from={source}", "--seed", "3"]).over(Config()),
    ):
        assert (config.policy.hidden, config.value.hidden) == ((8,), (6,))
    alone = choose("Reacher-v5", None, {"start_from": str(source), "start_parts": ["value"]}).config
    assert (alone.policy.hidden, alone.value.hidden) == ((64, 64), (6,))


def test_none_undoes_the_start_of_a_file_and_what_follows_from_it(source, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(f"seed: 3\nstart_from: {source}\nstart_parts: [policy]\nstart_sum: abc\n")
    assert choose("Reacher-v5", file, {}).config.policy.hidden == (8,)
    assert choose("Reacher-v5", file, {"start_from": None}).config == Config(seed=3)
    typed = ["Reacher-v5", "--config", str(file)]
    assert settings_of(typed).over(Config()).policy.hidden == (8,)
    assert settings_of([*typed, "--start-from", "None"]).over(Config()) == Config(seed=3)


@pytest.mark.parametrize("option", ["--start-from", "--start_from", "--from"])
def test_each_spelling_of_the_option_follows_the_agent(option, source, capsys, monkeypatch):
    followed = []
    monkeypatch.setattr(train, "_train_one", lambda id, config, *rest: followed.append(config))
    assert main(["train", "Reacher-v5", option, str(source), "--start_parts", "policy"]) == 0, (
        capsys.readouterr()
    )
    assert (followed[0].policy.hidden, followed[0].value.hidden) == ((8,), (64, 64))


def test_every_option_of_a_network_is_that_of_the_agent():
    """A new option of a network has to be named in ``OF_PARTS``, or here with a reason."""
    apart = {"policy.std_rate"}  # of the optimizer
    for part, record in (("policy", Policy()), ("value", Value())):
        names = {f"{part}.{name}" for name in flat(dataclasses.asdict(record))}
        assert names - apart <= set(OF_PARTS[part])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": {"hidden": 16}}, r"policy.hidden = 16: must be 8, as start_from = '.*' has it; leave"),
        ({"value": {"activation": "relu"}}, r"value.activation = relu: must be tanh"),
        ({"normalize": {"action": False}}, r"normalize.action = False: must be True"),
        ({"start_sum": "abc"}, r"another sum than start_sum, [0-9a-f]{12}\.\.\. instead of abc"),
    ],
)
def test_what_contradicts_the_agent_is_refused_in_a_sentence(source, changes, message):
    with pytest.raises(ConfigError, match=message):
        started(source, **changes)


def test_other_spaces_are_refused_and_what_differs_is_named(source):
    spec = Spec.flat("Other", (10,), (3,), (-1.0,) * 3, (1.0,) * 3)
    config = choose("Reacher-v5", None, {"start_from": source}).config
    with pytest.raises(ConfigError, match=r"Other has actions: 3; the agent was trained with: 2"):
        read_source(str(source)).check(config.settled(spec), spec)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--start-parts policy", "--start-parts = policy: has no effect without --start-from"),
        ("--demonstration-epochs 3", "has no effect without demonstrations"),
        ("--start-sum abc", "has no effect without"),
        ("--from nowhere", "nowhere: there is no such folder"),
        ("--from x --start-parts policy,wings", "must be one or several of policy, value, normalizer"),
        ("--demonstrations a.npz --from b", "b: there is no such folder"),
        ("--demonstrations a.npz --history 2", "must be None with .*history"),
        ("--demonstrations a.npz --no-video", "a.npz.*No such file"),
        ("--curriculum widen", "must be module:function, for example my_envs:widen"),
        ("--curriculum a:b", "has no effect with backend native"),
    ],
)
def test_wrong_starts_end_with_a_sentence(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "Pendulum-v1", *options.split()]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(message, error), error


def test_without_its_source_it_resumes_to_the_same_bits(source, tmp_path):
    copy = tmp_path / "source"
    shutil.copytree(source, copy)
    config = choose("Reacher-v5", None, {**flat_of(TINY), "start_from": copy}).config
    whole = play(tmp_path / "whole", config)
    for stop in (1, 2):
        play(tmp_path / f"stopped-{stop}", config, stop=stop)
    first = load_training(checkpoints(tmp_path / "stopped-1")[-1])[0].initial
    assert first.keys() == named(load_agent(checkpoints(source)[0])[0]).keys()
    early = tmp_path / "early"  # killed before its first iteration ended
    shutil.copytree(tmp_path / "stopped-1", early)
    shutil.rmtree(checkpoints(early)[0])
    shutil.rmtree(copy)
    for name in ("stopped-1", "stopped-2", "early"):
        resumed = poise.resume(tmp_path / name, file=io.StringIO())
        assert resumed.summary["parameters_sha256"] == whole["parameters_sha256"]
        assert resumed.summary["exact"]
    written = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert written["start_from"] == str(copy)
    assert written["start_sum"] == json.loads((source / "summary.json").read_text())["parameters_sha256"]
    _, manifest = load_agent(checkpoints(tmp_path / "whole")[0])
    assert manifest.config.start_parts == STATE


def flat_of(config):
    return {name: getattr(config, name) for name in ("total_steps", "num_envs", "ppo")}


def test_a_first_checkpoint_with_a_changed_array_is_refused(source, tmp_path):
    config = choose("Reacher-v5", None, {**flat_of(TINY), "start_from": source}).config
    play(tmp_path / "run", config, stop=1)
    first = checkpoints(tmp_path / "run")[-1]
    data = bytearray((first / "initial.safetensors").read_bytes())
    data[-1] ^= 1
    (first / "initial.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_training(first)


def test_several_trainings_need_what_they_start_from_again(tmp_path):
    config = Config(start_from="there", curriculum="mine:widen")
    check_repeated(tmp_path, config, Repeated(start_from="there", curriculum="mine:widen"), needed=ALL)
    with pytest.raises(RunError, match="starts from another run; to read that, repeat the name"):
        check_repeated(tmp_path, config, Repeated(curriculum="mine:widen"), needed=ALL)
    with pytest.raises(RunError, match=r"Python module; .* --curriculum mine:widen \(in Python: curriculum="):
        check_repeated(tmp_path, config, Repeated(start_from="there"), needed=ALL)
    with pytest.raises(RunError, match="has no demonstrations: leave out --demonstrations"):
        check_repeated(tmp_path, config, Repeated(start_from="there", demonstrations="x"), needed=ALL)
    with pytest.raises(RunError, match="leave out --start-from: a training has its start in its checkpoints"):
        check_repeated(tmp_path, config, Repeated(start_from="there", curriculum="mine:widen"))


@pytest.mark.parametrize(
    ("env", "command"),
    [
        ("Reacher-v5", "poise resume runs/1 --curriculum mine:widen --ray there:1"),
        ("Pendulum-v1(g=5.0)", "poise resume runs/1 --curriculum mine:widen --ray there:1"),
        (
            "tank:Tank(g=5.0)",
            "poise resume runs/1 --env 'tank:Tank(g=5.0)' --curriculum mine:widen --ray there:1",
        ),
        (
            "<lambda>",
            "in Python, poise.resume('runs/1', env=..., curriculum='mine:widen', ray='there:1')",
        ),
        (
            "<Tank-2>(g=5.0) + m:Clip(most=2) + <lambda>",
            "in Python, poise.resume('runs/1', env=Tank, wrappers=['m:Clip(most=2)', ...], "
            "curriculum='mine:widen', ray='there:1')",
        ),
        (
            "tank:Tank(g=5.0) + <Clip>",
            "in Python, poise.resume('runs/1', env='tank:Tank(g=5.0)', wrappers=[Clip], "
            "curriculum='mine:widen', ray='there:1')",
        ),
    ],
)
def test_the_command_that_resumes_repeats_what_a_folder_alone_never_imports(env, command):
    assert resume_command(Path("runs/1"), env, Config(curriculum="mine:widen"), "there:1") == command


# ------------------------------------------------------------------------------------------ demonstrations

BOX = Spec.flat("box", (3,), (2,), (-2.0, 0.0), (2.0, 1.0))
CHOICE = Spec.flat("choice", (3,), num_choices=4, first_choice=5)


def shown(spec, rows=400):
    """Observations, and actions that follow from them: far from 0, so that a random policy has them not."""
    rng = np.random.default_rng(0)
    obs = rng.normal(3.0, 2.0, (rows, 3))
    if spec is CHOICE:
        return obs, 5 + np.argmax(np.c_[obs, 4 * np.ones(rows)], axis=1)
    return obs, np.c_[np.clip(0.4 * (obs[:, 0] - 3), -2, 2), np.clip(0.2 * obs[:, 1], 0, 1)]


@pytest.mark.parametrize("spec", [BOX, CHOICE])
def test_a_cloned_policy_acts_like_the_demonstrations(spec, tmp_path):
    obs, action = shown(spec)
    np.savez(tmp_path / "shown.npz", obs=obs, action=action)
    read = read_demonstrations(tmp_path / "shown.npz", spec, normalize_action=True)
    config = Config(num_envs=4, demonstrations="shown.npz", ppo=PPO(policy_learning_rate=3e-3)).settled(spec)
    state = first_state(spec, config)
    cloned = clone(state, read, config, in_jax=False)
    assert cloned.after > cloned.before
    scaled = jax.vmap(lambda o: cloned.normalizer.scale(o, enabled=True, bound=10.0))(
        jnp.asarray(obs, jnp.float32)
    )
    if spec is CHOICE:
        greedy = np.argmax(jax.vmap(cloned.policy)(scaled).logits, axis=1) + 5
        assert np.mean(greedy == action) > 0.95
    else:
        mean = np.asarray(jax.vmap(cloned.policy)(scaled).mean)
        low, high = np.array([[-2.0, 0.0]]), np.array([[2.0, 1.0]])
        np.testing.assert_allclose(np.asarray(read.action), 2 * (action - low) / (high - low) - 1, atol=1e-6)
        assert np.abs(mean - np.asarray(read.action)).mean() < 0.05
        np.testing.assert_array_equal(cloned.policy.log_std, state.learner.policy.log_std)
    np.testing.assert_allclose(cloned.normalizer.obs.mean, obs.mean(0), rtol=1e-5)
    assert float(cloned.normalizer.obs.count) == 400
    again = clone(state, read, config, in_jax=False)
    for a, b in zip(jax.tree.leaves(cloned.policy), jax.tree.leaves(again.policy), strict=True):
        np.testing.assert_array_equal(a, b)
    other = clone(state, read, dataclasses.replace(config, demonstration_epochs=1), in_jax=False)
    assert other.after < cloned.after


def test_statistics_of_far_observations_keep_their_digits():
    obs = 1.7e9 + np.random.default_rng(0).normal(0, 2, (300, 3))
    rows = Demonstrations(obs, np.zeros((300, 2), np.float32))
    config = Config(num_envs=4, demonstrations="x", demonstration_epochs=1).settled(BOX)
    normalizer = clone(first_state(BOX, config), rows, config, in_jax=False).normalizer
    np.testing.assert_allclose(normalizer.obs.std, obs.std(0), rtol=1e-3)


class Opens:
    """Would run code if it were unpickled."""

    def __reduce__(self):
        return (print, ("run",))


def npz(path: Path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"obs": np.zeros((5, 3))}, "has no array action; it has obs"),
        (
            {"obs": np.zeros((5, 4)), "action": np.zeros((5, 2))},
            r"obs has shape \[5, 4\], should be \[rows, 3",
        ),
        ({"obs": np.zeros((5, 3)), "action": np.zeros((4, 2))}, "same number of rows"),
        ({"obs": np.zeros((0, 3)), "action": np.zeros((0, 2))}, "at least 1"),
        ({"obs": np.full((5, 3), np.nan), "action": np.zeros((5, 2))}, "infinity, NaN"),
        ({"obs": np.zeros((5, 3)), "action": np.full((5, 2), 3.0)}, "outside of the action space of box"),
        ({"obs": np.array([Opens()] * 5), "action": np.zeros((5, 2))}, "dtype object, should be numbers"),
    ],
)
def test_demonstrations_that_do_not_fit_are_refused(arrays, message, tmp_path, capsys):
    with pytest.raises(ConfigError, match=message):
        read_demonstrations(npz(tmp_path / "d.npz", **arrays), BOX, normalize_action=True)
    assert capsys.readouterr().out == ""  # nothing was unpickled


def test_an_array_that_claims_more_than_it_has_takes_no_memory(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 3), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("obs.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(ValueError, match="is damaged: shape"):
        read_npz(tmp_path / "d.npz")
    (tmp_path / "text.npz").write_text("obs")
    with pytest.raises(ValueError, match="is not an NPZ file"):
        read_npz(tmp_path / "text.npz")


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_no_more_is_decompressed_than_an_array_claims(kind, tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("obs.npy", bytes(2**27))
    content = path.read_bytes()
    for size in ((2**27).to_bytes(4, "little"),):
        content = content.replace(size, (128).to_bytes(4, "little"))
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"is not an NPZ file|is not compressed as np.savez_compressed"):
        read_npz(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


@pytest.mark.parametrize("text", ["(" * 9000, "-" * 9000 + "1", "{"])
def test_a_header_that_is_no_python_is_refused(text, tmp_path):
    header = text.encode() + b"\n"
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("obs.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(ValueError, match=r"is not an NPZ file|header|Header"):
        read_npz(tmp_path / "d.npz")


def test_without_its_demonstrations_it_resumes_to_the_same_bits(tmp_path):
    spec = Spec.flat("Reacher", (10,), (2,), (-1.0, -1.0), (1.0, 1.0))
    rng = np.random.default_rng(1)
    file = npz(tmp_path / "d.npz", obs=rng.normal(size=(90, 10)), action=rng.uniform(-1, 1, (90, 2)))
    assert read_demonstrations(file, spec, normalize_action=True).num_rows == 90
    config = dataclasses.replace(TINY, demonstrations=str(file), demonstration_epochs=2)
    whole, plain = play(tmp_path / "whole", config), play(tmp_path / "plain", TINY)
    assert whole["parameters_sha256"] != plain["parameters_sha256"]
    play(tmp_path / "stopped", config, stop=1)
    file.unlink()
    resumed = poise.resume(tmp_path / "stopped", file=io.StringIO())
    assert resumed.summary["parameters_sha256"] == whole["parameters_sha256"]
    assert resumed.summary["exact"]


def test_normalization_of_the_first_rollout_has_no_effect_with_demonstrations():
    config = Config(demonstrations="d.npz", normalize=Normalize(first_rollout=False))
    with pytest.raises(ConfigError, match=r"first_rollout = False: has no effect with demonstrations"):
        config.refuse_idle()
