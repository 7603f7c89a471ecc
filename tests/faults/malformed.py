"""Checkpoints and options as nobody should make them."""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from suite import POISE, Failed, Process, require

from poise.checked import ConfigError
from poise.cli.main import main
from poise.config import Config
from poise.runs.options import FOLDERS, Options
from poise.store.checkpoint import manifest_sum

SECRET = "what lies outside"
FILES = ("manifest.json", "agent.safetensors", "training.safetensors")
ROWS = Iterator[tuple[str, bool, str]]
TRICKS = [
    "../../outside",
    "/etc/passwd",
    "..",
    "",
    "\0",
    "a/b",
    "~",
    "C:\\x",
    "\ud800",
    "antigravity:X",
    "." * 300,
]

numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**30, 10**400, 1e308, 5e-324, math.nan, math.inf]),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20), st.sampled_from(TRICKS)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def make_base(folder: Path) -> Path:
    """A run with two checkpoints whose training is done, but for its end."""
    import poise

    ppo = {"num_steps": 24, "num_epochs": 2, "minibatch_size": 24}
    quiet = {"evaluate": False, "video": False, "file": io.StringIO()}
    run = poise.train(
        "CartPole-v1", out=folder, total_steps=144, num_envs=3, ppo=ppo, checkpoint_every=1, **quiet
    )
    (run.folder / "summary.json").unlink()
    shutil.rmtree(run.folder / "checkpoints" / f"{0:012d}")
    return run.folder


# -- mutations: each changes a copy of the base -----------------------------------------------------


def newest(run: Path) -> Path:
    return run / "checkpoints" / f"{144:012d}"


def mend_sums(folder: Path) -> None:
    """Has the manifest's sums be those of the files: only the contents are wrong."""
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    for name in data["files"]:
        content = (folder / name).read_bytes()
        data["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_manifest(path, data)


def write_manifest(path: Path, data: Any) -> None:
    if isinstance(data, dict):
        data["sha256"] = manifest_sum(data)
    path.write_bytes(json.dumps(data).encode("utf-8", "surrogatepass"))


def flip(draw: Callable, run: Path) -> str:
    path = newest(run) / draw(st.sampled_from(FILES))
    data = bytearray(path.read_bytes())
    for _ in range(draw(st.integers(1, 8))):
        data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
    path.write_bytes(data)
    return f"flipped bits of {path.name}"


def cut_short(draw: Callable, run: Path) -> str:
    path = newest(run) / draw(st.sampled_from(FILES))
    data = path.read_bytes()
    path.write_bytes(data[: draw(st.integers(0, len(data) - 1))] + draw(st.binary(max_size=20)))
    return f"cut {path.name}"


def gone(draw: Callable, run: Path) -> str:
    names = [*FILES, "../../metrics.jsonl", "../../episodes.csv", "../../events.out.tfevents.poise"]
    path = newest(run) / draw(st.sampled_from(names))
    path.unlink()
    return f"removed {path.name}"


def places(data: Any, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        found += places(value, (*path, key))
    return found


def edit(draw: Callable, run: Path) -> str:
    path = newest(run) / "manifest.json"
    data = json.loads(path.read_text())
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(places(data)))
        place = data
        for key in parents:
            place = place[key]
        how = draw(st.sampled_from(["set", "set", "set", "drop", "rename"]))
        if how == "set":
            place[last] = draw(values)
        elif how == "drop":
            del place[last]
        elif isinstance(place, dict):
            place[draw(st.one_of(st.sampled_from(TRICKS), st.text(max_size=8)))] = place.pop(last)
    with contextlib.suppress(KeyError, TypeError):
        if isinstance(steps := data["config"]["total_steps"], int) and steps > 144:
            data["config"]["total_steps"] = 144  # nothing is wrong with a training that takes years
    with contextlib.suppress(KeyError, TypeError):
        data["notes"]["options"] |= {"evaluate": False, "video": False}  # nor with films and scores
    if draw(st.integers(0, 9)):
        write_manifest(path, data)
        return "edited manifest.json"
    path.write_bytes(json.dumps(data).encode("utf-8", "surrogatepass"))
    return "edited manifest.json and left its sum"


def nest(draw: Callable, run: Path) -> str:
    depth = draw(st.integers(1, 100_000))
    (newest(run) / "manifest.json").write_text(draw(st.sampled_from(["[", '{"a":'])) * depth)
    return f"nested {depth} deep"


def arrays(draw: Callable, run: Path) -> str:
    """Arrays of other names, shapes, dtypes or contents, with the right sums."""
    path = newest(run) / draw(st.sampled_from(FILES[1:]))
    data = load(path.read_bytes())
    name = draw(st.sampled_from(sorted(data)))
    match draw(st.sampled_from(["drop", "rename", "shape", "dtype", "contents", "more"])):
        case "drop":
            del data[name]
        case "rename":
            data[draw(st.text(max_size=20)) + name[:3]] = data.pop(name)
        case "shape":
            shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
            data[name] = np.zeros(shape, data[name].dtype)
        case "dtype":
            data[name] = np.asarray(
                data[name].astype(draw(st.sampled_from(["f2", "f8", "i1", "i8", "u4", "?"])))
            )
        case "contents":
            array = data[name]
            filler = draw(st.sampled_from([0, -1, 1e30, np.nan, np.inf, 2**40]))
            with np.errstate(all="ignore"):
                data[name] = np.full_like(array, np.array(filler).astype(array.dtype))
        case "more":
            data[draw(st.text(max_size=20))] = np.zeros(3, np.float32)
    path.write_bytes(save({n: np.ascontiguousarray(a).reshape(a.shape) for n, a in data.items()}))
    mend_sums(newest(run))
    return f"other arrays in {path.name}"


def header(draw: Callable, run: Path) -> str:
    """A header that is huge, or says what cannot be, with the right sums."""
    path = newest(run) / draw(st.sampled_from(FILES[1:]))
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    if draw(st.booleans()):
        told = draw(
            st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([2**63, 2**64 - 1, 2**40, size + 1]))
        )
        data = told.to_bytes(8, "little") + data[8:]
    else:
        head = json.loads(data[8 : 8 + size])
        name = draw(st.sampled_from(sorted(head)))
        field = draw(st.sampled_from(["data_offsets", "shape", "dtype"]))
        head[name][field] = draw(st.one_of(values, st.lists(st.integers(-5, 2**63), max_size=3)))
        fresh = json.dumps(head).encode("utf-8", "surrogatepass")
        data = len(fresh).to_bytes(8, "little") + fresh + data[8 + size :]
    path.write_bytes(data)
    mend_sums(newest(run))
    return f"another header of {path.name}"


def swap(draw: Callable, run: Path) -> str:
    """Something else where a file or a folder should be: a link, a pipe, a folder, a device."""
    names = [*(f"checkpoints/{144:012d}/{name}" for name in FILES), f"checkpoints/{144:012d}", "checkpoints"]
    names += ["metrics.jsonl", "episodes.csv", "events.out.tfevents.poise", "curve.png", "config.json"]
    names += ["greedy.csv", "summary.json"]
    path = run / draw(st.sampled_from(names))
    path.touch()
    aside = run.parent / "outside" / path.name
    if path.is_dir():
        shutil.move(path, aside)
        path.symlink_to(aside)
        return f"{path.name} is a link to a folder outside"
    match how := draw(st.sampled_from(["link", "kept link", "folder", "pipe", "device"])):
        case "link":
            path.unlink()
            path.symlink_to(run.parent / "outside" / "secret")
        case "kept link":  # what it leads to is right
            shutil.move(path, aside)
            path.symlink_to(aside)
        case "folder":
            path.unlink()
            path.mkdir()
        case "pipe":
            path.unlink()
            os.mkfifo(path)
        case "device":
            path.unlink()
            path.symlink_to("/dev/zero")
    return f"{path.name}: {how}"


MUTATIONS = (flip, cut_short, gone, edit, edit, edit, nest, arrays, arrays, header, header, swap)


def mutated(draw: Callable, base: Path, folder: Path) -> tuple[Path, str]:
    """A copy of the base in ``folder`` with one thing wrong, and the file outside that nobody may open."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "outside").mkdir(parents=True)
    (folder / "outside" / "secret").write_text(SECRET)
    run = shutil.copytree(base, folder / "run")
    if draw(st.integers(0, 9)):  # most have no checkpoint to fall back to
        shutil.rmtree(run / "checkpoints" / f"{72:012d}")
    return run, draw(st.sampled_from(MUTATIONS))(draw, run)


class Audit:
    """Hears of all that Python opens, executes and starts; ``odd`` is what an undisturbed run does not do."""

    def __init__(self) -> None:
        self._on, self._usual, self._learning = False, set(), False
        self.odd: list[str] = []
        self.folder = Path()
        sys.addaudithook(self._hear)

    @contextlib.contextmanager
    def hearing(self, folder: Path, *, learning: bool = False) -> Iterator[None]:
        self.folder, self.odd, self._learning = folder, [], learning
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def _hear(self, event: str, arguments: tuple) -> None:
        if not self._on:
            return
        self._on = False  # what is done here is nobody's business
        try:
            if fact := self._fact(event, arguments):
                if self._learning:
                    self._usual.add(fact)
                elif fact not in self._usual:
                    self.odd.append(fact)
        finally:
            self._on = True

    def _fact(self, event: str, arguments: tuple) -> str | None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            real = os.path.realpath(path)
            run = str(self.folder / "run")
            inside = path == run or path.startswith(run + os.sep)
            if inside and (real == path or not os.path.exists(real)):
                return None
            if path.startswith(str(jax.config.values["jax_compilation_cache_dir"]) + os.sep):
                return None
            if path in {getattr(module, "__file__", None) for module in list(sys.modules.values())}:
                return None  # the lines of a trace, of code that runs already
            if inside:  # a link: it may be looked at, not opened; opening is refused by the system
                return (
                    None if isinstance(arguments[2], int) and arguments[2] & os.O_NOFOLLOW else f"open {real}"
                )
            return f"open {path}"
        if event in ("exec", "compile"):
            code = arguments[0] if event == "exec" else arguments[1]
            if event == "compile" and code == "<unknown>":
                return None  # a trace parses the lines that it shows; executing them would be heard
            return f"{event} {getattr(code, 'co_filename', code)}"
        if event == "import" or event.split(".")[0] in (
            "subprocess",
            "pickle",
            "marshal",
            "ctypes",
            "socket",
        ):
            return f"{event} {arguments[:1]!s:.80}"
        if event in ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"):
            return event
        return None


def call(arguments: list[str]) -> tuple[int, str]:
    """The command's own entry: its exit code, and what it printed."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            code = main(arguments)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 2
    return code, text.getvalue()


def judge(code: int, text: str) -> None:
    require("Traceback" not in text, f"a traceback: {text[-300:]}")
    fell_back = code == 0 and "resuming from step" in text
    require(code == 2 or fell_back, f"exit code {code}: {text[-300:]}")


def many(count: int, start: int, trial: Callable[[Callable], str]) -> list[tuple[str, bool, str]]:
    """So many examples, each a row; a failure is a row too, and does not end the others."""
    rows: list[tuple[str, bool, str]] = []

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one(data: st.DataObject) -> None:
        try:
            note, passed = trial(data.draw), True
        except Failed as error:
            note, passed = str(error), False
        except Exception as error:
            note, passed = f"a traceback: {type(error).__name__}: {error}", False
            if type(error).__module__.startswith("hypothesis"):
                raise
        rows.append((f"{start}.{len(rows)}", passed, note))

    one()
    return rows


def checkpoints(work: Path, count: int, start: int = 0) -> ROWS:
    """Malformed checkpoints through the command's own entry, in this process."""
    work = work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    base, audit, folder = make_base(work / "base"), Audit(), work / "trial"
    for fall_back in (False, True, False):  # what an undisturbed end does, and one after a fall back
        shutil.rmtree(folder, ignore_errors=True)
        run = shutil.copytree(base, folder / "run")
        if fall_back:
            (newest(run) / "agent.safetensors").unlink()
        with audit.hearing(folder, learning=True):
            code, text = call(["resume", str(run)])
        assert code == 0, text

    def trial(draw: Callable) -> str:
        run, note = mutated(draw, base, folder)
        with audit.hearing(folder):
            code, text = call(["resume", str(run)])
        judge(code, f"{note}: {text}")
        require(not audit.odd, f"{note}: {audit.odd[:3]}")
        require((folder / "outside" / "secret").read_text() == SECRET, f"{note}: changed what lies outside")
        require(SECRET not in text, f"{note}: showed what lies outside")
        return f"{note}: {'exit 2' if code == 2 else 'went on'}"

    while count > 0:  # hypothesis may find fewer than it was asked for
        rows = many(min(count, 1000), start, trial)
        yield from rows
        count, start = count - len(rows), start + 1


def checkpoint_process(work: Path, rng: random.Random, references: Any) -> str:
    """One of them as a process of its own."""
    work = work.resolve()
    base = work.parent.parent / "checkpoints-base"
    if not (base / "made").exists():
        base_once(base)
    run_of_base = next(base.glob("*/*/checkpoints")).parent
    made: list[tuple[Path, str]] = []
    many(1, rng.randrange(2**32), lambda draw: made.append(mutated(draw, run_of_base, work)) or "")
    (run, note), *_ = made
    process = Process([*POISE, "resume", str(run)], work / "process")
    code = process.wait()
    judge(code, f"{note}: {process.text()}")
    process.nothing_left()
    return note


def base_once(base: Path) -> None:
    with contextlib.suppress(FileExistsError):
        base.mkdir(parents=True)
        make_base(base)
        (base / "made").touch()
        return
    import time

    while not (base / "made").exists():
        time.sleep(0.1)


# -- options -----------------------------------------------------------------------------------


def fields(record: Any, prefix: str = "") -> dict[str, Any]:
    """Every option by its dotted name, with its usual value."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            found |= fields(value, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = value
    return found


CONFIG = fields(Config())
OPTIONS = {name: value for name, value in fields(Options()).items() if name not in FOLDERS}
WORDS = st.one_of(
    st.sampled_from(
        ["", "x", "-1", "nan", "inf", "-inf", "1e999", "--", "1,2", "[]", "None1", "1" * 30, "0x10", "½"]
    ),
    st.text(min_size=1, max_size=12),
    st.integers(max_value=-1).map(str),
)


def bad_option(draw: Callable) -> tuple[list[str], str]:
    """A command with one option that cannot be, and the name that the error has to have."""
    name = draw(st.sampled_from(sorted(CONFIG | OPTIONS)))
    flag = "--" + name.replace("_", "-")
    usual = (CONFIG | OPTIONS)[name]
    word = draw(WORDS)
    if usual is True or usual is False:
        return ["train", "Nowhere-v0", f"{flag}={word}"], name
    return ["train", "Nowhere-v0", f"{flag}={word}"], name


def named_in(text: str, name: str) -> bool:
    """Whether an error names the option, as it is typed or as it is written in Python."""
    joined = "".join(text.split()).replace("│", "")
    return name.replace("_", "-") in joined or name in joined


def option_trial(draw: Callable, run: Callable[[list[str]], tuple[int, str]]) -> str:
    arguments, name = bad_option(draw)
    code, text = run(arguments)
    require("Traceback" not in text, f"{arguments}: a traceback: {text[-300:]}")
    require(code == 2, f"{arguments}: exit code {code}: {text[-300:]}")
    if "there is no environment 'Nowhere-v0'" in text:
        return f"{name}: a value that can be"  # nothing was wrong with it
    require(named_in(text, name), f"{arguments}: does not name it: {text[-500:]}")
    return f"{name}: exit 2"


def config_trial(draw: Callable, base: Path, folder: Path) -> str:
    """A configuration with one value that cannot be, in a checkpoint."""
    name = draw(st.sampled_from(sorted(CONFIG)))
    group, _, last = name.rpartition(".")
    value = draw(values)
    shutil.rmtree(folder, ignore_errors=True)
    run = shutil.copytree(base, folder / "run")
    shutil.rmtree(run / "checkpoints" / f"{72:012d}")
    path = newest(run) / "manifest.json"
    data = json.loads(path.read_text())
    (data["config"][group] if group else data["config"])[last] = value
    write_manifest(path, data)
    with contextlib.suppress(ConfigError):
        Config.from_dict(json.loads(path.read_bytes())["config"])
        return f"{name}: a value that can be"
    code, text = call(["resume", str(run)])
    require("Traceback" not in text, f"{name} = {value!r}: a traceback: {text[-300:]}")
    require(code == 2, f"{name} = {value!r}: exit code {code}: {text[-300:]}")
    told = named_in(text, name) or "an integer beyond 64 bits" in text  # which no JSON of poise holds
    require(told, f"{name} = {value!r}: does not name it: {text[-300:]}")
    return f"{name}: exit 2"


def options(work: Path, count: int, start: int = 0) -> ROWS:
    """Malformed options on the command line and configurations in checkpoints, in this process.

    Those that turn out to be fine are not counted.
    """
    shutil.rmtree(work, ignore_errors=True)
    base, folder = make_base(work / "base"), work / "trial"

    def trial(draw: Callable) -> str:
        if draw(st.booleans()):
            return option_trial(draw, call)
        return config_trial(draw, base, folder)

    while count > 0:
        rows = many(min(2 * count, 1000), start, trial)
        rows = [row for row in rows if not row[2].endswith("can be")][:count]
        yield from rows
        count, start = count - len(rows), start + 1


def options_process(work: Path, rng: random.Random, references: Any) -> str:
    """One of them as a process of its own."""

    def run(arguments: list[str]) -> tuple[int, str]:
        process = Process([*POISE, *arguments], work)
        return process.wait(), process.text()

    while True:
        rows = many(1, rng.randrange(2**32), lambda draw: option_trial(draw, run))
        if rows and not rows[0][2].endswith("can be"):
            _, passed, note = rows[0]
            require(passed, note)
            return note
