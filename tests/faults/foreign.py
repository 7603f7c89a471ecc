"""Folders of strangers: every kind of file in them, made wrong, before every verb that reads it.

A child process does the trials one after another and tells of each; its parent sees to the time and the
memory that each takes, and goes on with another child where one had to be ended.
"""

import contextlib
import csv
import io
import json
import math
import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from hypothesis import strategies as st
from malformed import SECRET, call, mend_sums, newest, places, values, write_manifest
from malformed import arrays as other_arrays
from malformed import header as other_header
from suite import Failed, require

SECONDS = 60.0  # for one trial, on a machine that does other things as well
MEMORY = 10**9  # bytes that may be resident
PATIENCE = 300.0  # seconds for the child to make what is mutated

ESCAPES = [
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "\u202egnp.exe",
    "a\rb",
    "\ud800",
    "\u2028",
    "$(touch PWNED)",
    "$x^{$",
]
ODD = [
    "",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1",
    "x",
    "1_0",
    "9" * 5000,
    "0x1",
    '"',
    "1.5",
    "\0",
    "[]",
    *ESCAPES,
]


APART = "nowhere:Task"


class Base(NamedTuple):
    """What is copied and made wrong: a finished run, one that can go on, an experiment, and a sweep.

    ``plans``: an experiment and a sweep of an environment that names a module. Without --env both are refused
    once all of their plan was read: what an edited plan asks for may take years.
    """

    run: Path
    going: Path
    experiment: Path
    sweep: Path
    plans: Path


def make_bases(work: Path) -> Base:
    """Two small trainings, and what is made of their folders."""
    import numpy as np

    import poise
    from poise.envs.vector import Crash
    from poise.runs.crash import write_crash
    from poise.studies import experiment, tables

    ppo = {"num_steps": 24, "num_epochs": 1, "minibatch_size": 24}
    usual = {"total_steps": 144, "num_envs": 3, "ppo": ppo, "checkpoint_every": 72, "eval_every": 72}
    runs = []
    for seed in (0, 1):
        run = poise.train(
            "CartPole-v1",
            out=work / "made",
            seed=seed,
            video=False,
            eval_episodes=1,
            file=io.StringIO(),
            **usual,
        )
        runs.append(run.folder)
    base = Base(*(work / name for name in Base._fields))
    shutil.copytree(runs[0], base.run)
    (base.run / "video.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(1000))
    actions = np.zeros(5)
    write_crash(base.run, Crash("CartPole-v1", 0, 1, 5, "it fell", "a trace", actions))
    shutil.copytree(runs[0], base.going)
    (base.going / "summary.json").unlink()
    base.experiment.mkdir()
    rows = []
    for seed, run in enumerate(runs):
        shutil.copytree(run, base.experiment / str(seed))
        summary = json.loads((run / "summary.json").read_text())
        rows += experiment.result_rows("CartPole-v1", seed, run, summary)
    tables.write_table(base.experiment / "results.csv", experiment.COLUMNS, rows)
    data = json.loads((newest(runs[0]) / "manifest.json").read_text())
    asked = {"envs": ["CartPole-v1"], "seeds": 2, "against": None, "config": data["config"]}
    asked["options"] = data["notes"]["options"]
    (base.experiment / "experiment.json").write_text(json.dumps(asked))
    _make_sweep(base.sweep, work)
    plan = json.loads((base.sweep / "sweep.json").read_text())
    for name, planned in (("experiment", asked | {"envs": [APART]}), ("sweep", plan | {"env": APART})):
        (base.plans / name).mkdir(parents=True)
        (base.plans / name / f"{name}.json").write_text(json.dumps(planned))
    return base


def _make_sweep(folder: Path, work: Path) -> None:
    """A sweep whose trainings are made up."""
    from poise.config import Config
    from poise.runs.options import Options
    from poise.studies.sweep import sweep
    from poise.studies.sweep.search import Search
    from poise.studies.sweep.trial import Result

    def jobs(given: Any, **_: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
        for job in given:
            worth = -abs(math.log(job.config.ppo.policy_learning_rate / 2e-3))
            yield job, Result(None, (worth, worth, worth), dict.fromkeys(job.rungs, worth), 1.0).to_dict()

    def judge(plan: Any, ledger: Any, *_: Any) -> dict[str, Any]:
        options = plan.settings(ledger.trials()[0])
        told = {"trial": 0, "default": True, "options": options}
        return {"status": "finished", "winner": told, "scores": {}, "pair": None, "beats": False,
                "sentence": "no winner", "command": None, "failed": {}, "elsewhere": []}  # fmt: skip

    with mock.patch.object(sweep, "run_jobs", jobs), mock.patch.object(sweep, "_judge", judge):
        options = Options(out=work / "sweeps", video=False)
        made = sweep.execute_sweep("CartPole-v1", Config(), options, Search(trials=9), file=io.StringIO())
    made.folder.rename(folder)


# -- verbs: what each reads, and how often it is tried ----------------------------------------------

RUN_FILES = ("metrics.jsonl", "episodes.csv", "greedy.csv", "evaluation.csv", "summary.json")
ARRAYS = tuple(f"checkpoints/{144:012d}/{name}" for name in ("agent.safetensors", "training.safetensors"))
MANIFEST = f"checkpoints/{144:012d}/manifest.json"


class Verb(NamedTuple):
    """``base``: the folder that is mutated. ``files``: of which one is. ``arguments``: of the mutated folder
    and of one that is whole. ``weight``: what is quick is tried often."""

    base: str
    files: tuple[str, ...]
    arguments: Callable[[str, str], list[str]]
    weight: int


VERBS = {
    "doctor": Verb("run", (*RUN_FILES, MANIFEST), lambda bad, good: ["doctor", bad], 30),
    "report": Verb("run", (*RUN_FILES, MANIFEST, "video.mp4"), lambda bad, good: ["report", bad], 10),
    "diff": Verb("run", (*RUN_FILES, "config.json"), lambda bad, good: ["diff", good, bad], 30),
    "compare": Verb("run", (*RUN_FILES, MANIFEST), lambda bad, good: ["compare", bad, good], 15),
    "evaluate": Verb(
        "run", (MANIFEST, ARRAYS[0]), lambda bad, good: ["evaluate", bad, "--episodes", "1"], 30
    ),
    "export": Verb("run", (MANIFEST, ARRAYS[0]), lambda bad, good: ["export", bad], 10),
    "video": Verb("run", (MANIFEST, ARRAYS[0]), lambda bad, good: ["video", bad], 1),
    "check": Verb("run", ("crash.json",), lambda bad, good: ["check", f"{bad}/crash.json"], 4),
    "resume": Verb(
        "going", (*RUN_FILES[:3], *ARRAYS, "events.out.tfevents.poise"), lambda bad, good: ["resume", bad], 20
    ),
    "resume an experiment": Verb(
        "experiment",
        ("results.csv", "0/metrics.jsonl", "0/greedy.csv"),
        lambda bad, good: ["resume", bad],
        2,
    ),
    "resume a planned experiment": Verb(
        "plans", ("experiment/experiment.json",), lambda bad, good: ["resume", f"{bad}/experiment"], 8
    ),
    "resume a planned sweep": Verb(
        "plans", ("sweep/sweep.json",), lambda bad, good: ["resume", f"{bad}/sweep"], 8
    ),
    "compare an experiment": Verb(
        "experiment", tuple(f"1/{name}" for name in RUN_FILES), lambda bad, good: ["compare", bad], 5
    ),
    "report an experiment": Verb(
        "experiment", tuple(f"1/{name}" for name in RUN_FILES), lambda bad, good: ["report", bad], 3
    ),
    "report a sweep": Verb("sweep", ("summary.json",), lambda bad, good: ["report", bad], 10),
}


# -- mutations of one file --------------------------------------------------------------------------


def flip(draw: Callable, path: Path) -> str:
    data = bytearray(path.read_bytes())
    for _ in range(draw(st.integers(1, 8))):
        data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
    path.write_bytes(data)
    return "flipped bits"


def cut(draw: Callable, path: Path) -> str:
    data = path.read_bytes()
    path.write_bytes(data[: draw(st.integers(0, len(data)))] + draw(st.binary(max_size=20)))
    return "cut"


def swap(draw: Callable, path: Path) -> str:
    """Something else in its place: a link, a pipe, a folder, a device, nothing."""
    outside = path_root(path) / "outside"
    how = draw(st.sampled_from(["link", "kept link", "folder", "pipe", "device", "link to a pipe", "gone"]))
    aside = outside / path.name
    shutil.move(path, aside)
    match how:
        case "link":
            path.symlink_to(outside / "secret")
        case "kept link":
            path.symlink_to(aside)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "link to a pipe":
            os.mkfifo(outside / "pipe")
            path.symlink_to(outside / "pipe")
    return how


def path_root(path: Path) -> Path:
    """The folder of the trial."""
    return next(parent for parent in path.parents if (parent / "outside").is_dir())


def huge(draw: Callable, path: Path) -> str:
    """Gigabytes, in one line or in many; on the disk there is next to nothing of them."""
    how = draw(st.sampled_from(["zeros behind", "zeros alone", "a long line", "many rows"]))
    lines = path.read_bytes().splitlines(keepends=True)
    match how:
        case "zeros behind":
            os.truncate(path, 5 * 10**9)
        case "zeros alone":
            path.write_bytes(b"")
            os.truncate(path, 5 * 10**9)
        case "a long line":
            path.write_bytes(b"".join([*lines[:1], b"1," * 10**7]))
        case "many rows":
            path.write_bytes(b"".join(lines[:-1]) + lines[-1] * (4 * 10**6 // max(1, len(lines[-1]))))
    return how


def edit(draw: Callable, path: Path) -> str:
    """Other values in JSON, in a line of JSON, or in a cell."""
    if path.suffix == ".csv":
        return _edit_cells(draw, path)
    text = path.read_text()
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    number = draw(st.integers(0, len(lines) - 1))
    data = json.loads(lines[number])
    for _ in range(draw(st.integers(1, 3))):
        if found := places(data):
            _edit_at(draw, data, draw(st.sampled_from(found)))
    if path.name == "manifest.json":
        with contextlib.suppress(KeyError, TypeError):
            data["notes"]["options"] |= {"evaluate": False, "video": False}
        write_manifest(path, data)
        return "edited"
    lines[number] = json.dumps(data)
    path.write_bytes("\n".join([*lines, ""]).encode("utf-8", "surrogatepass"))
    return "edited"


def _edit_at(draw: Callable, data: Any, where: tuple) -> None:
    *parents, last = where
    place = data
    for key in parents:
        place = place[key]
    match draw(st.sampled_from(["set", "set", "escape", "escape in a name", "drop"])):
        case "set":
            place[last] = draw(values)
        case "escape":
            place[last] = draw(st.sampled_from(ESCAPES))
        case "escape in a name" if isinstance(place, dict):
            place[draw(st.sampled_from(ESCAPES))] = place.pop(last)
        case _:
            del place[last]


def _edit_cells(draw: Callable, path: Path) -> str:
    rows = list(csv.reader(path.read_text().splitlines()))
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.sampled_from(rows))
        if not row:
            continue
        place = draw(st.integers(0, len(row) - 1))
        match draw(st.sampled_from(["odd", "odd", "odd", "fewer", "more", "many"])):
            case "odd":
                row[place] = draw(st.sampled_from(ODD))
            case "fewer":
                del row[place]
            case "more":
                row.append("1")
            case "many":
                row.extend(["1"] * 10_000)
    path.write_bytes("\n".join([*map(",".join, rows), ""]).encode("utf-8", "surrogatepass"))
    return "edited"


def whole(draw: Callable, path: Path) -> str:
    """Another text altogether."""
    deep = draw(st.integers(1, 100_000))
    text = draw(
        st.sampled_from(
            ["", "\n", "[]", "{}", "null", "0", '""', "NaN", '{"a": 1, "a": 2}', "[" * deep, '{"a":' * deep,
             "[" + "[]," * 10**6 + "[]]", "9" * 10**6, '"' + "\\u0000" * 1000 + '"', "\ufeff{}", "a,b\n1,2\n"]
        )
    )  # fmt: skip
    path.write_text(text)
    return f"another text, {text[:20]!r}"


def in_arrays(how: Callable) -> Callable:
    def mutate(draw: Callable, path: Path) -> str:
        return how(draw, path_root(path) / "run")

    return mutate


def empty_arrays(draw: Callable, path: Path) -> str:
    """A hundred thousand arrays of nothing, or one of a gigabyte, with the right sums."""
    count, size = draw(st.sampled_from([(10**5, 0), (1, 10**9)]))
    entry = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    name = draw(st.sampled_from(["a", "world.a", "candidate.0.a"]))
    head = json.dumps({f"{name}{i}": entry for i in range(count)}).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head)
    os.truncate(path, 8 + len(head) + size)
    if size:
        return _summed_apart(path)
    mend_sums(path.parent)
    return f"{count:,} arrays of nothing"


def _summed_apart(path: Path) -> str:
    import hashlib

    manifest = path.parent / "manifest.json"
    data = json.loads(manifest.read_text())
    with path.open("rb") as file:
        data["files"][path.name]["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    write_manifest(manifest, data)
    return "an array of a gigabyte"


TEXT = (flip, cut, swap, swap, huge, edit, edit, edit, edit, whole)
BINARY = (flip, cut, swap, huge, in_arrays(other_arrays), in_arrays(other_header), empty_arrays)


def mutated(draw: Callable, base: Base, folder: Path) -> tuple[str, list[str], str]:
    """A copy with one file made wrong in ``folder``: the verb, its arguments, and what was done."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "outside").mkdir(parents=True)
    (folder / "outside" / "secret").write_text(SECRET)
    verb = draw(st.sampled_from([name for name, verb in VERBS.items() for _ in range(verb.weight)]))
    chosen = VERBS[verb]
    run = shutil.copytree(getattr(base, chosen.base), folder / "run")
    if chosen.base == "going" and draw(st.booleans()):
        shutil.rmtree(run / "checkpoints" / f"{72:012d}")
    path = run / draw(st.sampled_from(chosen.files))
    how = draw(st.sampled_from(BINARY if path.suffix in (".safetensors", ".mp4", ".poise") else TEXT))
    if path.suffix in (".mp4", ".poise"):
        how = draw(st.sampled_from((flip, cut, swap, huge)))
    return verb, chosen.arguments(str(run), str(base.run)), f"{path.name}: {how(draw, path)}"


OBEYED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]"
)


def judge(code: int, text: str, folder: Path) -> None:
    """What holds of every verb, whatever was done to the folder."""
    require("Traceback" not in text, f"a traceback: {text[-400:]}")
    require(code in (0, 1, 2), f"exit code {code}: {text[-300:]}")
    require(code != 2 or text.strip(), "exit code 2 without a word")
    require(not OBEYED.search(text), f"what a terminal obeys: {text!r:.300}")
    require((folder / "outside" / "secret").read_text() == SECRET, "changed what lies outside")
    require(SECRET not in text, "showed what lies outside")
    page = folder / "run" / "report.html"
    require(not page.is_file() or SECRET not in page.read_text(), "the page shows what lies outside")


def _most_memory() -> int:
    """Bytes that were resident at most since the last call."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]


def child(work: Path, count: int, start: int) -> None:
    """Trials one after another; of each a line before it and one behind it."""
    from malformed import many

    made = work / "base"
    if not (made / "made").exists():
        shutil.rmtree(made, ignore_errors=True)
        make_bases(made)
        (made / "made").touch()
    base = Base(*(made / name for name in Base._fields))
    folder, out = work / f"trial-{os.getpid()}", sys.stdout

    def tell(*words: Any) -> None:
        print(json.dumps(words), file=out, flush=True)

    def trial(draw: Callable) -> str:
        verb, arguments, note = mutated(draw, base, folder)
        note = f"{verb}, {note}"
        _most_memory()
        tell("begun", note)
        try:
            code, text = call(arguments)
            judge(code, text, folder)
            most = _most_memory()
            require(most < MEMORY, f"{most / 1e6:,.0f} MB were resident")
        except Failed as error:
            tell("ended", False, f"{note}: {error}")
            raise
        except BaseException as error:
            tell("ended", False, f"{note}: a traceback: {type(error).__name__}: {error}")
            raise
        tell("ended", True, f"{note}: exit {code}")
        return note

    tell("ready")
    many(count, start, trial)
    shutil.rmtree(folder, ignore_errors=True)


def foreign(work: Path, count: int, start: int = 0) -> Iterator[tuple[str, bool, str]]:
    """So many trials, a row each."""
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    done = 0
    while done < count:
        for passed, note in _watched(work, min(count - done, 1000), start):
            yield f"{start}.{done}", passed, note
            done += 1
        start += 1


def _watched(work: Path, count: int, start: int) -> Iterator[tuple[bool, str]]:
    """The rows of one child. It is ended where a trial takes too long or too much."""
    command = [sys.executable, __file__, str(work), str(count), str(start)]
    errors = work / "errors.txt"
    with errors.open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, start_new_session=True, bufsize=0
        )
    assert process.stdout is not None
    note, until = None, time.monotonic() + PATIENCE
    try:
        while True:
            ready, _, _ = select.select([process.stdout], [], [], 0.1)
            if ready:
                if not (line := process.stdout.readline()):
                    break
                kind, *words = json.loads(line)
                note, until = (words[0] if kind == "begun" else None), time.monotonic() + SECONDS
                if kind == "ended":
                    yield words[0], words[1]
            elif time.monotonic() > until:
                yield False, f"{note}: took more than {SECONDS:.0f} s"
                return
            elif note is not None and (used := _resident(process.pid)) > 2 * MEMORY:
                yield False, f"{note}: {used / 1e6:,.0f} MB are resident"
                return
        if process.wait() and note is not None:
            yield False, f"{note}: the process ended with {process.returncode}: {errors.read_text()[-200:]}"
        elif process.returncode:
            raise Failed(f"the child failed: {errors.read_text()[-2000:]}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


if __name__ == "__main__":
    child(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
