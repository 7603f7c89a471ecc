"""Trainings that are one of several, damaged; and links under the names of what is written."""

import contextlib
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import malformed
from suite import POISE, Process, kept, require, summary

import poise
from poise.errors import PoiseError
from poise.runs.options import Options
from poise.store.checkpoint import read_manifest
from poise.studies.pool import run_jobs
from poise.studies.sweep.trial import Trial, _Seed
from poise.system.interrupts import Guard
from poise.system.streams import TextOut

UNFINISHED = ["config.json", "metrics.jsonl", "episodes.csv", "events.out.tfevents.poise", "checkpoints"]


def flip(run: Path) -> None:
    path = malformed.newest(run) / "agent.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(run: Path) -> None:
    path = malformed.newest(run) / "training.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def unreadable(run: Path) -> None:
    path = malformed.newest(run) / "agent.safetensors"
    path.unlink()
    path.mkdir()


def other_schema(run: Path) -> None:
    for path in (run / "checkpoints").glob("*/manifest.json"):
        malformed.write_manifest(path, json.loads(path.read_text()) | {"schema": 3})


DAMAGES = {"a byte": flip, "cut": cut_short, "unreadable": unreadable, "another schema": other_schema}
PLACES = ("one of several seeds", "one of several tasks", "a trial of a sweep")


def tree(folder: Path) -> dict[str, str]:
    """The contents of all files in a folder, links by what they say; what a second try writes left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file() and path.name not in (".lock", "log.txt"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def copied(base: Path, run: Path) -> Path:
    run.mkdir(parents=True)
    for name in UNFINISHED:
        source = base / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, run / name)
    return run


def experiment(base: Path, folder: Path, *, tasks: bool = False) -> Path:
    """An experiment of the training of ``base`` alone; where there are tasks, another one is missing."""
    manifest = read_manifest(malformed.newest(base))
    envs = [manifest.env, "Pendulum-v1"] if tasks else [manifest.env]
    run = copied(base, folder / manifest.env / "0" if tasks else folder / "0")
    options = Options.from_dict(manifest.notes["options"]).to_dict()
    data = {"envs": envs, "seeds": 1, "against": None, "config": manifest.config.to_dict()}
    (folder / "experiment.json").write_text(json.dumps({**data, "options": options}))
    return run


def base_of(work: Path) -> tuple[Path, str]:
    """A run that is not finished, and the hash to which it comes undisturbed."""
    place = work / "keeping-base"
    malformed.base_once(place)
    run = next(place.glob("*/*/checkpoints")).parent
    told = place / "hash"
    if not told.exists():
        with tempfile.TemporaryDirectory(dir=place) as folder:
            done = poise.resume(copied(run, Path(folder) / "run" / "0"), file=io.StringIO())
        told.write_text(done.summary["parameters_sha256"])
    return run, told.read_text()


def damaged(work: Path, damage: str, place: str) -> str:
    """The newest checkpoint of a training that is one of several is damaged; then all of it is resumed."""
    base, wanted = base_of(work.parent.parent)
    folder = work / "whole"
    if place == "a trial of a sweep":
        run, code, text = trial(base, folder, DAMAGES[damage])
    else:
        run = experiment(base, folder, tasks=place == "one of several tasks")
        DAMAGES[damage](run)
        before = tree(run)
        process = Process([*POISE, "resume", str(folder)], work)
        code, text = process.wait(), process.text()
        if damage == "another schema":
            require(tree(run) == before, "the folder was changed")
    require("Traceback" not in text, text[-300:])
    log = (folder / "log.txt" if place == "a trial of a sweep" else run / "log.txt").read_text()
    require("000000000144 cannot be used" in text, f"the terminal does not name it: {text[-300:]}")
    require("000000000144 cannot be used" in log, f"log.txt does not name it: {log[-300:]}")
    if damage == "another schema":
        require(code == 1, f"exit code {code}: {text[-300:]}")
        require(kept(run), "the checkpoints are gone")
        return f"{place}: failed, and nothing is lost"
    require((run / "checkpoints" / "unusable-000000000144").is_dir(), "it was not set aside")
    require("resuming from step 72" in log, f"was not resumed from the one before: {log[-300:]}")
    require(summary(run)["parameters_sha256"] == wanted, "another hash")
    return f"{place}: resumed from the checkpoint before"


def trial(base: Path, folder: Path, damage: Any) -> tuple[Path, int, str]:
    """A training that is of a trial, in a process of the pool."""
    manifest = read_manifest(malformed.newest(base))
    run = copied(base, folder / "0")
    damage(run)
    before = tree(run)
    said: list[str] = []
    options = Options.from_dict(manifest.notes["options"])
    job = OneSeed(manifest.env, manifest.config, options, folder, 1, (), ())
    ((_, result),) = run_jobs([job], say=said.append)
    failed = isinstance(result, PoiseError)
    if failed:
        said.append(str(result))
        require(tree(run) == before, "the folder was changed")
    return run, int(failed), "\n".join(said)


class OneSeed(Trial):
    """A trial without its final score, which would take long and says nothing here."""

    def run(self, guard: Guard, file: TextOut) -> dict[str, Any]:
        seed = _Seed(self, self.config, guard, file)
        try:
            seed.advance(float("inf"))
        finally:
            seed.close()
        return {}


# -- links -------------------------------------------------------------------------------------------

EVERY = [
    *["config.json", "metrics.jsonl", "episodes.csv", "events.out.tfevents.poise", "greedy.csv", ".lock"],
    *["evaluation.csv", "summary.json", "curve.png", "crash.json", "checkpoints", "checkpoints/best"],
    *["checkpoints/000000000072", "video.mp4", "video.gif", "unfinished-video.mp4"],
]
LINKS = {  # the command, and the names in the folder that it is given
    "resume RUN": EVERY,
    "export RUN": ["policy.py", "policy_tmp.py"],
    "export RUN --which best": ["checkpoints/best"],
    "report RUN": ["report.html"],
    "resume EXPERIMENT": [
        *["0", "0/log.txt", "0/checkpoints", "results.csv", "curve.png", "summary.json", ".lock"],
    ],
}
OUTSIDE = "what lies outside\n"


def link(work: Path, command: str, name: str, *, hard: bool = False) -> str:
    """Something outside is linked under a name that the command writes; it stays as it is."""
    base, _ = base_of(work.parent.parent)
    folder, outside = work / "folder", work / "outside"
    outside.mkdir(parents=True)
    if "EXPERIMENT" in command:
        experiment(base, folder)
    else:
        copied(base, folder)
    path = folder / name
    target = outside / path.name
    if path.exists():  # what it leads to is right: nothing but the link is wrong
        shutil.move(path, target)
    elif name == "checkpoints/best":
        shutil.copytree(malformed.newest(folder), target)
    else:
        target.write_text(OUTSIDE)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    hard = hard and target.is_file()
    path.hardlink_to(target) if hard else path.symlink_to(target)
    before = tree(outside)
    verb, _, *more = command.split()
    code, text = malformed.call([verb, str(folder), *more])
    require("Traceback" not in text, f"a traceback: {text[-300:]}")
    require(tree(outside) == before, f"changed what lies outside: {text[-300:]}")
    require(OUTSIDE.strip() not in text, "showed what lies outside")
    return f"{command}, {name}: exit {code}"


def links() -> Iterator[tuple[str, Any]]:
    """The trials by name."""
    for command, names in LINKS.items():
        for name in names:
            for hard in (False, True):
                kind = "hard link" if hard else "link"
                yield f"{command}, {name}, {kind}", lambda w, c=command, n=name, h=hard: link(w, c, n, hard=h)
