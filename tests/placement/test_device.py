"""What a training computes on: the rule, what each refusal says, and real starts in processes of their own.

No test needs a GPU. Where one is needed, a plugin that names JAX's CPU client "cuda" stands in for it.
"""

import json
import os
import subprocess
import sys
import textwrap

import jax
import pytest

from poise.checked import ConfigError
from poise.config import PPO, Config, Policy, Value
from poise.placement import device
from poise.placement.device import ENOUGH, MANY, Choice, Sizes, choose, count_products, decide_with
from poise.spec import Leaf, Part, Spec
from poise.system import gpu, machine
from poise.system.machine import PlatformError

CHEETAH = Spec.flat("HalfCheetah-v5", (17,), (6,), (-1.0,) * 6, (1.0,) * 6)


# --- the rule ---


def test_few_pendulums_with_small_minibatches_stay_on_the_cpu():
    config = Config(total_steps=200_000, num_envs=16, ppo=PPO(num_steps=128, minibatch_size=64))
    choice = decide_with(None, "native", config)
    assert choice == Choice(False, "a gradient step has 4.8 MFLOP; a GPU is worth it from 40 on")


def test_many_pendulums_with_large_minibatches_use_the_gpu():
    config = Config(total_steps=20_000_000, num_envs=2048, ppo=PPO(num_steps=32, minibatch_size=8192))
    assert decide_with(None, "native", config) == Choice(True, "a gradient step has 610 MFLOP")


@pytest.mark.parametrize("rows", [64, 128])
def test_small_networks_of_robots_on_the_host_stay_on_the_cpu(rows):
    config = Config(num_envs=16, ppo=PPO(minibatch_size=rows))
    assert not decide_with(CHEETAH, "mujoco", config).on_gpu


def test_the_rule_at_its_limits():
    rows = int(ENOUGH / 6 / 1000)
    below, enough = Sizes(MANY - 1, rows - 1, 1000), Sizes(16, rows + 1, 1000)
    assert not choose("mujoco", below).on_gpu
    assert not choose("native", below).on_gpu
    assert choose("mujoco", enough).on_gpu
    assert choose("native", enough).on_gpu
    many = below._replace(num_envs=MANY)
    assert choose("mjx", many) == Choice(True, "256 environments in JAX")
    assert not choose("mujoco", many).on_gpu


def test_wide_networks_and_images_use_the_gpu():
    wide = Config(policy=Policy(hidden=(256, 256)), value=Value(hidden=(256, 256)))
    assert decide_with(CHEETAH, "mujoco", wide).on_gpu
    camera = Leaf((), "image", (84, 84, 4), high=255.0, channels=2)
    pong = Spec("Pong", (camera,), (Part((), (), sizes=(6,), first=(0,)),), None)
    assert decide_with(pong, "atari", Config()).on_gpu


def test_a_memory_computes_one_step_of_its_sequences_at_a_time():
    memory = Config(policy=Policy(memory="gru"), value=Value(memory="lstm"))
    assert count_products(CHEETAH, memory) > 4 * count_products(CHEETAH, Config())
    assert not decide_with(CHEETAH, "mujoco", memory).on_gpu


def test_products_are_those_of_all_layers():
    one = 17 * 64 + 64 * 64
    assert count_products(CHEETAH, Config()) == (one + 64 * 6) + (one + 64)
    camera = Leaf((), "image", (10, 10, 4), channels=2)
    grid = Spec("grid", (camera,), (Part((), (), sizes=(3,), first=(0,)),), None)
    features = 8 * 8 * 9 * 4 * 16 + 6 * 6 * 9 * 16 * 32 + 6 * 6 * 32 * 128
    layers = 128 * 64 + 64 * 64
    assert count_products(grid, Config()) == (features + layers + 64 * 3) + (features + layers + 64)


# --- refusals ---


@pytest.fixture
def machine_with_gpu(monkeypatch):
    """A machine that has a GPU, with JAX not started, and no plugin."""
    monkeypatch.setattr(gpu, "DEVICE_FILES", ("/",))
    monkeypatch.setattr(gpu, "PLUGINS", ("no_such_plugin",))
    monkeypatch.setattr(gpu, "jax_runs", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_without_a_gpu_the_refusal_says_so(monkeypatch):
    monkeypatch.setattr(gpu, "DEVICE_FILES", ("/dev/none",))
    message = "device = 'gpu': this machine has no NVIDIA GPU (no /dev/none)"
    for runs in (True, False):
        monkeypatch.setattr(gpu, "jax_runs", lambda runs=runs: runs)
        with pytest.raises(PlatformError) as refusal:
            device.start("gpu", lambda: pytest.fail("nothing to decide"))
        assert str(refusal.value) == message
    with pytest.raises(PlatformError, match="this machine has no NVIDIA GPU"):
        device.check_many("gpu", "float32")


def test_without_a_package_the_refusal_has_the_command_that_installs_it(machine_with_gpu):
    with pytest.raises(PlatformError, match="JAX has no CUDA package here; it needs the extra cuda; to inst"):
        device.start("gpu", lambda: pytest.fail("nothing to decide"))


def test_a_hidden_gpu_is_none(machine_with_gpu, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.missing() == "CUDA_VISIBLE_DEVICES hides every GPU"


def test_a_package_of_another_version_is_refused(machine_with_gpu, monkeypatch):
    versions = {"json": "0.9.1", "jaxlib": "0.10.2"}
    monkeypatch.setattr(gpu, "PLUGINS", ("json",))
    monkeypatch.setattr(gpu.importlib.metadata, "version", versions.__getitem__)
    monkeypatch.setattr(gpu, "needs", lambda extra: f"needs {extra}")
    assert gpu.missing() == "json 0.9.1 does not fit jaxlib 0.10.2; it needs cuda"
    versions["json"] = "0.10.2.post1"
    assert gpu.missing() is None


def test_where_jax_runs_its_platform_stays(monkeypatch):
    jax.devices()
    assert device.start("auto", lambda: pytest.fail("nothing to decide")) == Choice(False, None)
    assert device.start("cpu", lambda: pytest.fail("nothing to decide")) == Choice(False, None)
    monkeypatch.setattr(gpu, "missing", lambda: None)
    with pytest.raises(PlatformError, match="'gpu': JAX runs on the CPU in this process already; start the"):
        device.start("gpu", lambda: pytest.fail("nothing to decide"))
    monkeypatch.setattr(gpu, "kinds", lambda: ("NVIDIA X",))
    with pytest.raises(PlatformError, match="'cpu': JAX runs on NVIDIA X in this process already"):
        device.start("cpu", lambda: pytest.fail("nothing to decide"))
    choice = device.start("auto", lambda: pytest.fail("nothing to decide"))
    assert choice.describe() == "NVIDIA X (JAX ran in this process already)"


def test_a_precision_is_set_on_a_gpu_alone_and_refused_elsewhere(monkeypatch):
    def now():
        return jax.config.values["jax_default_matmul_precision"]

    with device.precision("float32", on_gpu=False):
        assert now() is None
    with pytest.raises(ConfigError, match="matmul_precision = 'tf32': has no effect on a CPU"):
        device.precision("tf32", on_gpu=False).__enter__()
    for asked, name in device.PRECISIONS.items():
        with device.precision(asked, on_gpu=True):
            assert now() == name
            # the name is one that JAX understands
            text = jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((2, 2), "float32")).as_text()
            assert {"float32": "HIGHEST", "tf32": "HIGH", "bfloat16": "bf16"}[asked] in text
        assert now() is None
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    with pytest.raises(ConfigError, match="matmul_precision = 'tf32': has no effect on the CPU"):
        device.check_many("auto", "tf32")


def test_the_gpu_is_part_of_the_fingerprint_only_where_it_is_used(monkeypatch):
    on_cpu = machine.fingerprint()
    assert machine.made_with()["device"] == "cpu"
    monkeypatch.setattr(gpu, "kinds", lambda: ("NVIDIA X",))
    assert machine.fingerprint() != on_cpu
    assert machine.made_with()["device"] == "NVIDIA X"
    monkeypatch.setattr(gpu, "kinds", tuple)
    assert machine.fingerprint() == on_cpu


# --- in processes ---

PREAMBLE = """
    import jax, sys
    from jax._src import hardware_utils
    from poise.placement import device
    from poise.system import gpu
    hardware_utils.has_visible_nvidia_gpu = lambda: True
    gpu.DEVICE_FILES = ("/",)
    gpu.kinds = lambda: ("NVIDIA X",) if (jax.config.jax_platforms or "cuda").startswith("cuda") else ()
"""
WORKING = """
    def initialize():
        from jax._src import xla_bridge
        xla_bridge.register_backend_factory("cuda", xla_bridge.make_cpu_client, priority=500)
"""
BROKEN = """
    def initialize():
        raise RuntimeError("CUDA 12.1 is too old\\nand more")
"""
UNLOADABLE = """
    def initialize():
        from jax._src import xla_bridge
        def fail(): raise RuntimeError("no supported devices found")
        xla_bridge.register_backend_factory("cuda", fail, priority=500)
"""


@pytest.fixture
def python(tmp_path):
    """Runs a program beside a plugin; returns its process."""

    def run(program, plugin=WORKING, **variables):
        for name, text in (("jax_plugins/xla_cuda13", plugin), ("jax_cuda13_plugin", "")):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / name / "__init__.py").write_text(textwrap.dedent(text))
        env = {**os.environ, "PYTHONPATH": str(tmp_path), **variables}
        for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
            if name not in variables:
                env.pop(name, None)
        command = [sys.executable, "-c", textwrap.dedent(PREAMBLE) + textwrap.dedent(program)]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=tmp_path)

    return run


START = "\nprint(device.start({!r}, lambda: device.Choice({}, 'decided')), jax.config.jax_platforms)"


def test_the_cpu_starts_no_plugin(python):
    done = python(START.format("cpu", True) + "\nprint(jax.devices()[0].platform)", plugin=BROKEN)
    assert "Choice(on_gpu=False, reason='as --device says') cpu\ncpu\n" in done.stdout
    done = python(START.format("auto", False))
    assert done.stdout == "Choice(on_gpu=False, reason='decided') cpu\n"


def test_a_gpu_starts_with_a_cpu_beside_it(python):
    for asked, reason in (("gpu", "as --device says"), ("auto", "decided")):
        done = python(START.format(asked, True))
        assert done.stdout == f"Choice(on_gpu=True, reason='{reason}') cuda,cpu\n", done.stderr


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        (BROKEN, "CUDA 12.1 is too old"),
        (UNLOADABLE, "Unable to initialize backend 'cuda': no supported devices found"),
    ],
)
def test_a_package_that_does_not_start_is_quoted_in_one_sentence(python, plugin, reason):
    program = "from poise.cli.main import main\nsys.exit(main(['train', 'Reacher-v5', '--device', 'gpu']))"
    done = python(program, plugin)
    told = f"JAX has a CUDA package, which does not start: {reason}"
    assert done.stderr == f"poise: --device = 'gpu': {told}\n"
    assert done.returncode == PlatformError.exit_code == 2
    done = python(START.format("auto", True), plugin)
    assert done.stdout == f'Choice(on_gpu=False, reason="{told}") cpu\n'.replace(
        '"', '"' if "'" in told else "'"
    )


def test_jax_platforms_decides_for_auto(python):
    done = python(START.format("auto", True), JAX_PLATFORMS="cpu")
    assert done.stdout == "Choice(on_gpu=False, reason='JAX_PLATFORMS = cpu') cpu\n"
    done = python(START.format("gpu", True), JAX_PLATFORMS="cpu")
    assert done.stdout.startswith("Choice(on_gpu=True"), done.stderr


def test_the_rule_starts_nothing(python):
    program = """
        from poise.config import Config
        for env in ("Reacher-v5", "CartPole-v1", "Pendulum-v1", "gymnax:CartPole-v1"):
            print(device.decide(env, "auto", Config(num_envs=256)).on_gpu, gpu.jax_runs())
        print(device.decide("Reacher-v5", "mjx", Config()).on_gpu, gpu.jax_runs())
    """
    done = python(program)
    assert done.stdout.split("\n")[:5] == [
        "False False",
        "False False",
        "True False",
        "True False",
        "False False",
    ]


def test_a_training_says_where_it_computes_and_keeps_it_in_its_folder(python, tmp_path):
    program = """
        from poise.cli.main import main
        options = "--total-steps 512 --num-envs 2 --ppo.num-steps 64 --no-evaluate --no-video --out runs"
        options += " --device gpu --matmul-precision tf32"
        sys.exit(main(["train", "Pendulum-v1", *options.split()]))
    """
    done = python(program)
    assert done.returncode == 0, done.stderr
    assert "\ndevice: NVIDIA X (as --device says)\n" in done.stdout
    (folder,) = (tmp_path / "runs" / "Pendulum-v1").iterdir()
    summary, config = (json.loads((folder / f"{name}.json").read_text()) for name in ("summary", "config"))
    assert summary["device"] == "NVIDIA X"
    assert (config["device"], config["matmul_precision"]) == ("gpu", "tf32")
    assert Config.from_dict(config).total_steps == 512
    for steps, change, kind, precision in (
        ("1024", [], "NVIDIA X", "tf32"),
        ("2048", ["cpu"], "cpu", "float32"),
    ):
        words = ["resume", str(folder), "--total-steps", steps, *(f"--device={device}" for device in change)]
        done = python(f"from poise.cli.main import main\nsys.exit(main({words}))")
        assert f"\ndevice: {kind} (as --device says)\n" in done.stdout, done.stderr
        assert json.loads((folder / "config.json").read_text())["matmul_precision"] == precision
        assert json.loads((folder / "summary.json").read_text())["device"] == kind


def test_a_training_that_changes_its_device_is_not_exact(python, tmp_path):
    program = """
        import poise
        small = dict(total_steps=512, num_envs=2, ppo={"num_steps": 64}, evaluate=False, video=False)
        poise.train("Pendulum-v1", device="cpu", out="runs", **small)
    """
    done = python(program)
    assert "\ndevice: cpu (as --device says)\n" in done.stdout, done.stderr
    (folder,) = (tmp_path / "runs" / "Pendulum-v1").iterdir()
    done = python(f"import poise\npoise.resume({str(folder)!r}, total_steps=1024, device='gpu')")
    assert "on another processor: device NVIDIA X (was cpu)" in done.stdout, done.stderr
    assert not json.loads((folder / "summary.json").read_text())["exact"]
