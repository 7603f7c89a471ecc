"""The paper's figures, from its settings to a page: run what is missing, then draw and write what is there.

out/runs/<variant>/<seed>/   the run folders
out/figure1.csv ...          return and losses of every iteration of every seed
out/scores.csv               one row a run: greedy return, seconds
out/about.json               command, date, cores
out/figure1.png ...          drawn from the tables alone
out/results.md               written from the tables alone
out/best/<task>/             of the best agent: configuration, TensorBoard log, summary, video
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from poise.agents.agent import load
from poise.agents.film import VideoError, film
from poise.errors import PoiseError, StorageError
from poise.runs.folders import RunError
from poise.runs.journal import read_evaluation
from poise.runs.options import Options
from poise.runs.presets import PRESETS, configure, starting_point
from poise.runs.resuming import finished
from poise.runs.session import resolved
from poise.store.checkpoint import LARGEST_FILE, CheckpointError
from poise.store.claim import claimed
from poise.store.files import (
    FileError,
    check_room,
    own_folder,
    read_json,
    read_plain,
    write_bytes,
    write_text,
)
from poise.studies import tables
from poise.studies.figures import draw
from poise.studies.paper.figures import FIGURES, Figure, Variant
from poise.studies.paper.page import markdown
from poise.studies.pool import Job, check_count, run_jobs
from poise.studies.watching import watching
from poise.system import cluster
from poise.system.cores import num_cores
from poise.system.pulse import announced
from poise.system.streams import TextOut
from poise.system.terminal import print

SCORE_COLUMNS = ("variant", "env", "steps", "seed", "greedy", "greedy_10", "last", "seconds")
QUICK = 10  # --quick leaves one step of so many
USUAL_SEEDS, USUAL_SEEDS_QUICK = 5, 1


class ReproduceError(PoiseError):
    """Runs that failed, without which a figure cannot be made."""

    exit_code = 1


@dataclass(frozen=True)
class Plan:
    """What is to be run, and where to."""

    figures: Sequence[Figure]
    out: Path
    seeds: int
    quick: bool

    def __post_init__(self) -> None:
        check_count("seeds", self.seeds)

    @property
    def command(self) -> str:
        """What makes all of it, wherever it is put."""
        usual = USUAL_SEEDS_QUICK if self.quick else USUAL_SEEDS
        seeds = "" if self.seeds == usual else f" --seeds {self.seeds}"
        return "poise reproduce" + (" --quick" if self.quick else "") + seeds

    def jobs(self) -> list[Job]:
        variants = {v.name: v for figure in self.figures for v in figure.variants}
        return [_job(v, seed, self) for v in variants.values() for seed in range(self.seeds)]

    def complete(self) -> "Plan":
        """The same of all figures that can be made: its own, and those that were run earlier."""
        every = {figure.name: figure for figure in (*FIGURES, *self.figures)}
        plans = [dataclasses.replace(self, figures=(figure,)) for figure in every.values()]
        figures = [f for plan in plans if all(map(is_finished, plan.jobs())) for f in plan.figures]
        return dataclasses.replace(self, figures=tuple(figures))


def _job(variant: Variant, seed: int, plan: Plan) -> Job:
    env, config = configure(variant.target, seed=seed, **variant.changes)
    if plan.quick:
        config = dataclasses.replace(config, total_steps=config.total_steps // QUICK)
    return Job(env, config, Options(video=False), plan.out / "runs" / variant.name / str(seed))


def is_finished(job: Job) -> bool:
    """Whether its folder holds the finished run of exactly this configuration."""
    summary = finished(job.folder, resolved(job.env, job.options.backend), job.config, job.options)
    return summary is not None and summary["evaluation"] is not None


def run_plan(plan: Plan, *, ray: str | None = None, file: TextOut) -> Path:
    """Runs what is missing of the plan, then writes pictures, tables and the page.

    ``ray``: the cluster to train on (``run_jobs``).

    Returns:
        The page, ``results.md``.

    Raises:
        RunError: its folder cannot be made.
        ReproduceError: a run failed. What could be made without it was made.
        PoolError: a process was killed.
    """
    cluster.check(ray)
    try:
        (plan.out / "runs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        check_room(plan.out, error)
        raise RunError(f"out = {str(plan.out)!r}: cannot be made: {error.strerror}") from error
    with claimed(own_folder(plan.out, plan.out / "runs")):
        return _run_claimed(plan, ray, file)
    raise AssertionError


def _run_claimed(plan: Plan, ray: str | None, file: TextOut) -> Path:
    jobs = plan.jobs()
    missing = [job for job in jobs if not is_finished(job)]
    for job in missing:
        own_folder(plan.out, job.folder)
    print(f"{len(jobs)} runs, {len(jobs) - len(missing)} of them finished already", file=file, flush=True)
    failed = _run_missing(missing, ray, file)
    if missing or not (plan.out / "about.json").exists():
        today = date.today().isoformat()
        about = {"command": plan.command, "date": today, "cores": num_cores(), "quick": plan.quick}
        write_text(plan.out / "about.json", json.dumps(about, indent=2) + "\n")
    complete = plan.complete()
    show = partial(print, file=file, flush=True)
    print("writing the tables, drawing the figures", file=file, flush=True)
    with announced("drawing", show):
        gather(complete)
        render(plan.out, complete.figures)
    keep_best(plan.out, file)
    if failed:
        raise ReproduceError(f"runs of {', '.join(sorted(failed))} failed; log.txt in their folders says why")
    return plan.out / "results.md"


def _run_missing(jobs: Sequence[Job], ray: str | None, file: TextOut) -> set[str]:
    """Runs them all; the names of the variants of which one failed."""
    failed: set[str] = set()
    begun = time.perf_counter()
    with watching(file, _name) as watch:
        for done, (job, result) in enumerate(run_jobs(jobs, ray, watch.say, watch.look), start=1):
            if isinstance(result, StorageError):
                raise result
            if isinstance(result, PoiseError):
                failed.add(job.folder.parent.name)
                outcome = f"failed: {result}"
            else:
                outcome = f"greedy return {result['evaluation']['mean']:.1f}"
            left = (time.perf_counter() - begun) / done * (len(jobs) - done)
            then = f"{left / 60:.0f} min left" if done < len(jobs) else "then figures and films"
            watch.say(f"{done:>4} / {len(jobs)}  {_name(job)}: {outcome}  ({then})")
    return failed


def _name(job: Job) -> str:
    """As it is shown."""
    return f"{job.folder.parent.name}, seed {job.config.seed}"


def gather(plan: Plan) -> None:
    """The tables, from the run folders."""
    scores: list[Sequence[Any]] = []
    seen: set[str] = set()
    for figure in plan.figures:
        curves, episodes = [], []
        for variant in {v.name: v for v in figure.variants}.values():
            for seed in range(plan.seeds):
                job = _job(variant, seed, plan)
                curves += tables.curve_rows(variant.name, seed, job.folder)
                if figure.episodes:
                    episodes += tables.episode_rows(variant.name, seed, job.folder)
                if variant.name not in seen:
                    scores.append(_score(variant.name, job))
            seen.add(variant.name)
        tables.write_table(plan.out / f"{figure.name}.csv", tables.CURVE_COLUMNS, curves)
        if figure.episodes:
            tables.write_table(_episodes_of(plan.out, figure), tables.EPISODE_COLUMNS, episodes)
    tables.write_table(plan.out / "scores.csv", SCORE_COLUMNS, scores)


def _episodes_of(out: Path, figure: Figure) -> Path:
    return out / f"{figure.name}_episodes.csv"


def _score(variant: str, job: Job) -> Sequence[Any]:
    summary = json.loads((job.folder / "summary.json").read_text())
    greedy = read_evaluation(job.folder)
    ended = [row[3] for row in tables.curve_rows(variant, job.config.seed, job.folder) if row[3] != ""]
    last = ended[-1] if ended else ""
    means = f"{greedy.mean():.5g}", f"{greedy[:10].mean():.5g}"
    seconds = f"{summary['seconds']['total']:.1f}"
    return variant, summary["env"], summary["steps"], job.config.seed, *means, last, seconds


def render(out: Path, figures: Sequence[Figure]) -> None:
    """Pictures and page, from the tables in ``out`` alone."""
    for figure in figures:
        curves = tables.as_curves(tables.read_table(out / f"{figure.name}.csv"))
        dots = tables.as_dots(tables.read_table(_episodes_of(out, figure))) if figure.episodes else {}
        draw(out / f"{figure.name}.png", figure, curves, dots)
    about = json.loads((out / "about.json").read_text())
    write_text(out / "results.md", markdown(figures, tables.read_table(out / "scores.csv"), about))


def keep_best(out: Path, file: TextOut) -> None:
    """Of each task, what is left of the best agent that the paper's settings or a variant of them made.

    Best by its 100 greedy episodes, at the paper's budget; the first of equals.
    """
    tried = {v.name: v for figure in FIGURES for v in figure.variants if v.target in PRESETS}
    budget = {name: starting_point(v.target)[1].total_steps for name, v in tried.items()}
    best: dict[str, tables.Row] = {}
    for row in tables.read_table(out / "scores.csv"):
        if row["variant"] not in tried or int(row["steps"]) > budget[row["variant"]]:
            continue
        if row["env"] not in best or float(row["greedy"]) > float(best[row["env"]]["greedy"]):
            best[row["env"]] = row
    for env, row in best.items():
        run, kept = out / "runs" / row["variant"] / row["seed"], out / "best" / env
        with suppress(FileError):
            if read_json(kept / "summary.json") == read_json(run / "summary.json"):
                continue
        shutil.rmtree(own_folder(out, kept))
        own_folder(out, kept)
        for name in ("config.json", "summary.json", "evaluation.csv", "curve.png"):
            write_bytes(kept / name, read_plain(run / name, LARGEST_FILE))
        for events in run.glob("events.out.tfevents.*"):
            write_bytes(kept / "events.out.tfevents.1", read_plain(events, LARGEST_FILE))
        print(f"filming the best agent of {env}", file=file, flush=True)
        try:
            with announced(f"filming the best agent of {env}", partial(print, file=file, flush=True)):
                film(load(run), kept / "video", env=env)
        except (VideoError, CheckpointError) as error:
            print(error, file=file)
