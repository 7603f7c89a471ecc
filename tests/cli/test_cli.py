"""The command as a person types it."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import pytest

from poise.cli import main as cli
from poise.cli.main import main
from poise.settings.presets import PRESETS
from poise.studies import experiment
from poise.studies.paper import reproduce
from poise.system.extras import needs
from poise.system.streams import Lasting

ROOT = Path(__file__).parents[2]
TINY = "--total-steps 256 --num-envs 2 --ppo.num-steps 64 --no-evaluate --no-video"


def poise(command, capsys):
    """Exit code, standard output and standard error."""
    try:
        code = main(shlex.split(command))
    except SystemExit as stop:  # tyro's own way out, for help and usage
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_training_ends_with_the_folder_alone_on_the_last_line(capsys, tmp_path):
    code, out, _ = poise(f"train Reacher-v4 {TINY} --out {tmp_path}", capsys)
    assert code == 0
    folder = Path(out.splitlines()[-1])
    assert folder.parent == tmp_path / "Reacher-v4"
    assert (folder / "summary.json").exists()


def test_json_alone_is_on_standard_output(capsys, tmp_path):
    code, out, err = poise(f"train Pendulum-v0 {TINY} --json --out {tmp_path}", capsys)
    assert code == 0
    result = json.loads(out)
    assert (result["env"], result["backend"], result["steps"]) == ("Pendulum-v0", "native", 256)
    assert Path(result["folder"]).is_dir()
    assert "Pendulum-v0: 256 steps, seed 0\non native" in err


def test_options_reach_the_configuration(capsys, tmp_path):
    options = "--seed 7 --ppo.clip 0.3 --ppo.anneal none --ppo.target-kl 0.05 --policy.hidden 8 8 "
    options += (
        "--ppo.clip-schedule 0:1,1:0.5 --normalize.no-action --ppo.max-grad-norm None --policy.head-tanh mean"
    )
    code, out, _ = poise(f"train Reacher-v4 {TINY} {options} --out {tmp_path}", capsys)
    assert code == 0
    config = json.loads((Path(out.splitlines()[-1]) / "config.json").read_text())
    assert config["seed"] == 7
    assert config["ppo"]["clip"] == 0.3
    assert (config["ppo"]["anneal"], config["ppo"]["clip_schedule"]) == ("none", "0:1,1:0.5")
    assert config["ppo"]["target_kl"] == 0.05
    assert config["ppo"]["max_grad_norm"] is None
    assert config["policy"]["hidden"] == [8, 8]
    assert config["policy"]["head_tanh"] == "mean"
    assert config["normalize"]["action"] is False


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train Reachr-v4", "the nearest names are Reacher-v4"),
        (
            "train paper/cheetah",
            "paper/cheetah: no such preset; the presets are paper/inverted-pendulum, paper/reacher",
        ),
        ("train Ant-v2", "retired"),
        ("train Reacher-v4 --ppo.clip -1", "ppo.clip = -1.0: must be > 0"),
        ("train Reacher-v4 --log-every 0", "--log-every = 0: must be >= 1"),
        ("train Reacher-v4 --ppo.gamma 2", "ppo.gamma = 2.0: must be >= 0 and <= 1"),
        (
            "train Reacher-v4 --total-steps 1k --num-envs 16 --ppo.num-steps 128",
            "--total-steps = 1000: must be >= 2048, one rollout",
        ),
        ("train Reacher-v4 --total-steps ten", "'ten' is not a whole number"),
        ("train Reacher-v4 --seed 1.5", "'1.5' is not a whole number"),
        ("train Reacher-v4 --ppo.anneal sine", "--ppo.anneal = 'sine': must be one of: none, linear"),
        ("train Reacher-v4 --ppo.clop 1", "--ppo.clip"),
        ("train Reacher-v4 --backend native", "backend native has no Reacher-v4"),
        ("train CartPole-v1 --policy.std fixed", "policy.std = 'fixed': has no effect on the discrete"),
        ("reproduce 1 --seeds 0", "seeds = 0: must be >= 1"),
        ("train Reacher-v4 --seeds 0", "seeds = 0: must be >= 1"),
        ("train Pendulum-v1 --together 4", "together = 4: is for several seeds; add --seeds"),
        ("train Pendulum-v1 --seeds 2 --together 4", "together = 4: must be <= 2, the number of seeds"),
        ("train Reacher-v4 --seeds 2 --together 2", "together = 2: must be 1 on backend mujoco"),
        ("experiment Pendulum-v1 Reacher-v4 --together 2", "together = 2: must be 1 on backend mujoco"),
        ("train Pendulum-v1 --seeds 2 --together 2 --env-groups 2", "must be 1 with --env-groups = 2"),
        ("train Pendulum-v1 --seeds 2 --together 2 --devices 2", "must be 1 with devices = 2; several"),
        ("train Pendulum-v1 --seeds 2 --together 2 --ray auto", "together = 2: must be 1 with --ray"),
        ("sweep Pendulum-v1 --together 2", "together = 2: must be 1 in a sweep"),
        ("train Reacher-v4 --out /dev/null/x", "out = '/dev/null/x': no folder can be made there"),
        ("train", "ENV is missing; name an environment or a preset"),
        ("fly", "train"),
    ],
)
def test_a_wrong_command_exits_2_with_one_clear_message(command, message, capsys):
    code, out, err = poise(command, capsys)
    assert code == 2
    assert message in re.sub(r"\s+", " ", err)
    assert "Traceback" not in out + err


def test_evaluate_repeats_the_score_and_video_films_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("poise.agents.film.MAX_SECONDS", 0.5)
    tiny = TINY.replace("--no-evaluate", "")
    _, out, _ = poise(f"train Pendulum-v1 {tiny} --seed 4 --out {tmp_path}", capsys)
    *_, score, _, health, folder = out.splitlines()
    assert score.startswith("greedy return")
    assert health == "health: too short to judge (2 iterations, at least 4 needed)"
    code, out, _ = poise(f"evaluate {folder}", capsys)
    assert (code, out.strip()) == (0, score)
    code, out, _ = poise(f"evaluate {folder} --episodes 5 --seed 1 --json", capsys)
    assert json.loads(out)["episodes"] == 5
    code, out, _ = poise(f"video {folder}", capsys)
    assert code == 0
    assert Path(out.strip()).stat().st_size > 1000


def test_a_preset_trains_like_any_name_and_can_be_changed(capsys, tmp_path):
    options = "--ppo.num-steps 128 --total-steps 256 --ppo.clip 0.1 --no-evaluate --no-video"
    code, out, _ = poise(f"train paper/reacher {options} --out {tmp_path}", capsys)
    assert code == 0
    config = json.loads((Path(out.splitlines()[-1]) / "config.json").read_text())
    assert (config["env"], config["ppo"]["clip"], config["policy"]["std_init"]) == ("Reacher-v4", 0.1, 0.05)


@pytest.mark.parametrize(
    "command",
    [
        "train Reacher-v4 --out {0}",
        "train --out {0} Reacher-v4",
        "train Reacher-v4 --out {0} --policy.std-min 0.01",  # which the preset's fixed deviation refuses
    ],
)
def test_a_folder_with_the_name_of_a_preset_changes_nothing(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = poise(f"{command.format('paper/reacher')} {TINY}", capsys)
    assert code == 0
    assert out.splitlines()[-1].startswith("paper/reacher/Reacher-v4/")
    config = json.loads((tmp_path / out.splitlines()[-1] / "config.json").read_text())
    assert (config["policy"]["std"], config["ppo"]["num_epochs"]) == ("independent", 10)


def test_several_seeds_end_with_the_folder_that_holds_them(capsys, tmp_path, monkeypatch):
    asked = []
    score = {"mean": -5.125, "low": -6.0, "high": -4.25, "seeds": 2, "each": [-5.0, -5.25]}
    score["iqm"] = {"value": -5.125, "low": -5.25, "high": -5.0}
    tasks = {"Reacher-v2": {"backend": "mujoco", "evaluation": score}}
    summary = {"seeds": [2, 3], "tasks": tasks, "against": None, "steps": 256, "seconds": {"total": 3.0}}
    monkeypatch.setattr(
        experiment,
        "execute_seeds",
        lambda *given, **named: asked.append((given, named)) or experiment.Experiment(tmp_path, summary),
    )
    code, out, _ = poise(f"train paper/reacher --seed 2 --seeds 2 --out {tmp_path}", capsys)
    assert code == 0
    assert out.splitlines() == [
        "task        seeds   mean    95% interval  interquartile mean    95% interval",
        "Reacher-v2      2  -5.12  -6.00 to -4.25               -5.12  -5.25 to -5.00",
        "2 x 256 steps in 3.0 s",
        str(tmp_path),
    ]
    (id, config, options), named = asked[0]
    assert (id, config.seed, config.ppo.num_steps, options.out) == ("Reacher-v2", 2, 2000, tmp_path)
    assert named["num_seeds"] == 2
    _, out, _ = poise("train Reacher-v4 --seeds 2 --json", capsys)
    assert json.loads(out) == summary | {"folder": str(tmp_path)}


def test_reproduce_makes_the_figure_it_is_asked_for(capsys, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        reproduce, "run_plan", lambda plan, **_: asked.append(plan) or plan.out / "results.md"
    )
    assert poise("reproduce 2 --quick", capsys)[:2] == (0, "reproduction/quick/results.md\n")
    assert poise(f"reproduce --seeds 7 --out {tmp_path} --json", capsys)[0] == 0
    one, every = asked
    assert [figure.name for figure in one.figures] == ["figure2"]
    assert (one.seeds, one.quick, one.out) == (1, True, Path("reproduction/quick"))
    assert (len(every.figures), every.seeds, every.quick, every.out) == (5, 7, False, tmp_path)
    assert poise("reproduce 6", capsys)[0] == 2


def test_presets_are_listed_with_what_they_change(capsys):
    code, out, _ = poise("presets --json", capsys)
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["paper/pendulum"]["env"] == "Pendulum-v0"
    assert rows["paper/pendulum"]["changes"]["ppo.anneal"] == "none"
    assert rows["minigrid/doorkey-5x5"]["changes"]["ppo.entropy_coef"] == 0.01
    assert rows["popgym/count-recall-easy"]["changes"] == {
        "total_steps": 300_000,
        "policy.memory": "gru",
        "value.memory": "gru",
    }
    shown = poise("presets", capsys)[1]
    assert "paper/reacher  (Reacher-v2)" in shown
    assert "popgym: tasks of POPGym that need a memory, with a GRU in both networks\n\n  popgym/" in shown
    assert max(map(len, shown.splitlines())) <= 80
    told = {line.split()[0] for line in shown.splitlines() if line.startswith("  ") and line[2] != " "}
    assert told == set(rows)  # each preset is of a family that is listed


def test_a_preset_of_another_package_is_trained_by_its_name(capsys, tmp_path):
    command = f"train minigrid/doorkey-5x5 --total-steps 2k --no-video --no-evaluate --out {tmp_path}"
    code, _, err = poise(command, capsys)
    assert code == 0, err
    (summary,) = tmp_path.rglob("summary.json")
    told = json.loads(summary.read_text())
    assert told["status"] == "finished"
    assert told["env"] == "MiniGrid-DoorKey-5x5-v0"


@pytest.mark.parametrize(("extra", "starts"), [("minigrid", ("MiniGrid-", "BabyAI-")), ("popgym", "popgym-")])
def test_without_its_extra_a_preset_is_refused_with_what_installs_it(extra, starts, capsys, monkeypatch):
    name = next(name for name in PRESETS if name.startswith(f"{extra}/"))
    monkeypatch.setitem(sys.modules, extra, None)
    for id in [id for id in gymnasium.registry if id.startswith(starts)]:
        monkeypatch.delitem(gymnasium.registry, id)
    code, _, err = poise(f"train {name}", capsys)
    assert code == 2
    assert needs(extra) in err
    out = poise("envs", capsys)[1]
    assert f"{extra}: {needs(extra)}\n" in out
    code, _, err = poise(f"envs {extra}", capsys)
    assert code == 2
    assert f"no environment here has '{extra}' in its id; {extra}: {needs(extra)}" in err


def test_environments_are_listed_with_backend_spaces_limit_and_bar(capsys):
    code, out, _ = poise("envs --json", capsys)
    assert code == 0
    rows = {row["id"]: row for row in json.loads(out)}
    assert rows["Reacher-v4"] == {
        "id": "Reacher-v4",
        "backend": "mujoco",
        "obs": "11",
        "action": "2",
        "time_limit": 50,
        "solved": -3.75,
    }
    assert rows["CartPole-v1"]["action"] == "2 choices"
    assert (rows["FrozenLake-v1"]["obs"], rows["FrozenLake-v1"]["action"]) == ("16 values", "4 choices")
    assert "Pendulum-v0" in poise("envs", capsys)[1]


def test_environments_of_packages_are_counted_and_listed_on_demand(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = poise("envs", capsys)
    (line,) = [line for line in out.splitlines() if line.startswith("MiniGrid ")]
    count = int(line.split()[1])
    assert line.split()[2].startswith("MiniGrid-")
    assert max(map(len, out.splitlines())) <= 80
    assert not [line for line in out.splitlines() if line.startswith("popgym-")]  # not among Gymnasium's own
    _, out, _ = poise("envs minigrid-", capsys)
    assert len(out.splitlines()) == count
    assert "MiniGrid-DoorKey-5x5-v0" in out.splitlines()
    rows = json.loads(poise("envs positiononlycartpoleeasy --json", capsys)[1])
    usual = {"backend": "gymnasium", "obs": None, "action": None, "time_limit": None, "solved": None}
    ids = ["popgym-NoisyPositionOnlyCartPoleEasy-v0", "popgym-PositionOnlyCartPoleEasy-v0"]
    assert rows == [{"id": id, **usual} for id in ids]
    words = poise("envs hopper-v5", capsys)[1].splitlines()[1].split()
    assert words == ["Hopper-v5", "mujoco", "11", "3", "1000", "3800"]
    assert poise("envs nowhere", capsys)[0] == 2


def test_a_folder_without_an_agent_exits_2(capsys, tmp_path):
    for verb in ("evaluate", "video"):
        code, _, err = poise(f"{verb} {tmp_path}", capsys)
        assert code == 2
        assert "no agent is kept there" in err


@pytest.mark.parametrize(
    "command", ["", "train", "reproduce", "evaluate", "video", "presets", "envs", "sweep"]
)
def test_help_names_what_there_is(command, capsys):
    code, out, _ = poise(f"{command} --help", capsys)
    assert code == 0
    assert (command or "train") in out


def verbs(capsys):
    return re.findall(r"• (\w+)", poise("", capsys)[1])


def test_without_a_verb_the_verbs_are_listed_each_with_what_it_does(capsys):
    code, out, _ = poise("", capsys)
    assert code == 0
    assert set(verbs(capsys)) >= {"train", "resume", "doctor", "experiment", "sweep", "completion"}
    assert "Example:" not in out


def test_the_help_of_each_verb_has_an_example_of_it(capsys):
    for verb in verbs(capsys):
        assert f"\nExample: poise {verb}" in poise(f"{verb} --help", capsys)[1], verb


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (["trai"], "train"),
        (["train", "X-v0", "--ppo.targ"], "--ppo.target-kl"),
        (["train", "--backend", "mu"], "mujoco"),
    ],
)
def test_bash_completes_verbs_options_and_choices(typed, completed, tmp_path, capsys):
    (tmp_path / "poise.bash").write_text(poise("completion bash", capsys)[1])
    words = " ".join(["poise", *typed])
    script = rf"""
    source {tmp_path}/poise.bash
    function=$(complete -p poise | sed 's/.*-F \([^ ]*\).*/\1/')
    COMP_WORDS=({words}); COMP_CWORD={len(typed)}; COMPREPLY=()
    $function poise {typed[-1]} {["poise", *typed][-2]}
    echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [completed]


def test_help_shows_the_defaults_of_a_preset_that_is_named_as_env(capsys):
    usual = poise("train Reacher-v4 --help", capsys)[1]
    assert poise("train Reacher-v4 --out paper/reacher --help", capsys)[1] == usual
    assert "(default: 2000)" in poise("train paper/reacher --help", capsys)[1]
    assert "(default: 2000)" not in usual


def test_help_shows_every_option_of_the_algorithm(capsys):
    _, out, _ = poise("train --help-all", capsys)
    names = (
        "num-steps num-epochs minibatch-size gamma lam clip policy-learning-rate value-learning-rate anneal "
    )
    names += "max-grad-norm target-kl clip-schedule entropy-schedule"
    for name in names.split():
        assert f"--ppo.{name} " in out
    for name in (
        "total-steps",
        "seed",
        "num-envs",
        "backend",
        "out",
        "no-evaluate",
        "no-video",
        "log-every",
        "json",
    ):
        assert f"--{name}" in out


@pytest.mark.parametrize("began", [False, True])
def test_an_interrupt_exits_130_and_says_where_there_is_nothing_to_resume(capsys, monkeypatch, began):
    from poise.runs.peers import following as run

    def interrupted(env, config, options, conditions):
        conditions.guard.began = began
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "execute", interrupted)
    code, _, err = poise("train Reacher-v4", capsys)
    assert code == 130
    assert ("interrupted before the training began: there is nothing to resume" in err) != began
    assert "poise: interrupted" in err


def test_a_verb_that_loads_for_long_says_so_on_a_terminal_until_it_says_something_itself(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    written = []
    monkeypatch.setattr("poise.system.pulse.SILENCE", 0.02)
    monkeypatch.setattr("poise.system.pulse.LOOKING", 0.01)
    monkeypatch.setattr(cli.os, "write", lambda number, text: written.append((number, text)))
    out, err = Lasting(Terminal()), Lasting(Terminal())
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), cli._until_first_words():
        until = time.monotonic() + 10
        while not written and time.monotonic() < until:
            time.sleep(0.01)
        out.write("a result")
        time.sleep(0.1)
        count = len(written)
        time.sleep(0.2)
    assert written[0][0] == 2
    assert written[0][1].startswith(b"loading")
    assert len(written) <= count + 1


def test_help_does_not_load_jax():
    script = "import sys; from poise.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    script += "assert not {'jax', 'gymnasium', 'mujoco', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_ci_calls_the_test_command_of_the_readme():
    (command,) = re.findall(r"^.*pytest.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_poise_command_in_the_readme_is_understood(capsys, tmp_path):
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`(poise [a-z][^`]*)`", text)
    commands = [line.rpartition("poise ")[2] for line in lines if "poise " in line]
    assert len(commands) > 20
    for command in commands:
        words = shlex.split(command)
        code, out, _ = poise(shlex.join([words[0], "--help-all"]), capsys)
        if code:  # a verb with one help
            code, out, _ = poise(shlex.join([words[0], "--help"]), capsys)
        assert code == 0
        for option in (w for w in words[1:] if w.startswith("--")):
            assert option in out


@pytest.mark.parametrize(("number", "code"), [(None, 130), (2, 130), (15, 143)])
def test_the_exit_code_of_an_interrupt_is_that_of_the_signal_that_was_heard(number, code, monkeypatch):
    def interrupted(arguments, guard):
        guard.number = number
        raise KeyboardInterrupt  # as a library raises it in the midst of its own work

    monkeypatch.setattr(cli, "_run", interrupted)
    assert main(["envs"]) == code


def test_without_a_folder_the_run_that_was_saved_last_resumes_and_one_that_failed_is_called_so(
    tmp_path, capsys
):
    for number, state in enumerate(("interrupted", "failed")):
        saved = tmp_path / "task" / state / "checkpoints" / "000000000000"
        saved.mkdir(parents=True)
        (saved.parents[1] / "summary.json").write_text(json.dumps({"status": state}))
        os.utime(saved, (number, number))
    code, out, _ = poise(f"resume --out {tmp_path}", capsys)
    assert code == 2  # its checkpoint is empty
    failed = tmp_path / "task" / "failed"
    assert out.splitlines()[0] == f"the newest unfinished run, which has failed: {failed}"
    shutil.rmtree(failed)
    first = poise(f"resume --out {tmp_path}", capsys)[1].splitlines()[0]
    assert first == f"the newest unfinished run: {tmp_path / 'task' / 'interrupted'}"
