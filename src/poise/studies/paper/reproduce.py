"""The paper's figures, from its settings to a page: trains the missing runs, draws and writes the page.

out/runs/<variant>/<seed>/   the run folders
out/figure1.csv ...          return and losses of every iteration of every seed
out/scores.csv               one row a run: greedy return, seconds
out/about.json               command, date, cores
out/figure1.png ...          drawn from the tables alone
out/results.md               written from the tables alone
out/best/<task>/             the best agent's configuration, TensorBoard log, summary and video
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

from poise import wording
from poise.agents.agent import load
from poise.agents.film import VideoError, film
from poise.errors import PoiseError, StorageError
from poise.runs.folders import RunError
from poise.runs.journal import read_evaluation
from poise.runs.options import Options
from poise.runs.resuming import finished
from poise.runs.session import resolved
from poise.settings.presets import PRESETS, configure, starting_point
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
from poise.wording import counted

SCORE_COLUMNS = ("variant", "env", "steps", "seed", "greedy", "greedy_10", "last", "seconds")
QUICK = 10  # --quick divides the steps by this
USUAL_SEEDS, USUAL_SEEDS_QUICK = 5, 1


class ReproduceError(PoiseError):
    """Some runs failed, and the figures that need them are not made."""

    exit_code = 1


@dataclass(frozen=True)
class Plan:
    """Which figures to make, with how many seeds, in which folder."""

    figures: Sequence[Figure]
    out: Path
    seeds: int
    quick: bool

    def __post_init__(self) -> None:
        check_count("seeds", self.seeds)

    @property
    def command(self) -> str:
        """The command line that makes it, without the folder."""
        usual = USUAL_SEEDS_QUICK if self.quick else USUAL_SEEDS
        seeds = "" if self.seeds == usual else f" --seeds {self.seeds}"
        return "poise reproduce" + (" --quick" if self.quick else "") + seeds

    def jobs(self) -> list[Job]:
        return [job for _, job in self.named_jobs()]

    def named_jobs(self) -> list[tuple[str, Job]]:
        """Each training, by the name of its variant. A variant of several figures is trained once."""
        variants = {v.name: v for figure in self.figures for v in figure.variants}
        return [(v.name, _job(v, seed, self)) for v in variants.values() for seed in range(self.seeds)]

    def complete(self) -> "Plan":
        """The same plan for all figures whose runs are finished: its own, and those of earlier commands."""
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
    """Whether the job's folder holds the finished run of exactly this configuration."""
    summary = finished(job.folder, resolved(job.env, job.options.backend), job.config, job.options)
    return summary is not None and summary["evaluation"] is not None


def run_plan(plan: Plan, *, ray: str | None = None, file: TextOut) -> Path:
    """Trains the missing runs of the plan, then writes pictures, tables and the page.

    ``ray``: the cluster to train on (``run_jobs``).

    Returns:
        The page, ``results.md``.

    Raises:
        RunError: the folder cannot be made.
        ReproduceError: a run failed. The figures that do not need it are made.
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
    print(
        f"{counted(len(jobs), 'run')}, {len(jobs) - len(missing)} of them finished already",
        file=file,
        flush=True,
    )
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
        raise ReproduceError(
            f"runs of {', '.join(sorted(failed))} failed; see log.txt in their folders, then run this again"
        )
    return plan.out / "results.md"


def _run_missing(jobs: Sequence[Job], ray: str | None, file: TextOut) -> set[str]:
    """Runs all jobs; returns the names of the variants with a failed run."""
    failed: set[str] = set()
    start = time.perf_counter()
    with watching(file, _name) as watch:
        for done, (job, result) in enumerate(run_jobs(jobs, ray, watch.say, watch.look), start=1):
            if isinstance(result, StorageError):
                raise result
            if isinstance(result, PoiseError):
                failed.add(job.folder.parent.name)
                outcome = f"failed: {result}"
            else:
                outcome = f"greedy return {wording.figure(result['evaluation']['mean'])}"
            left = (time.perf_counter() - start) / done * (len(jobs) - done)
            then = f"{left / 60:.0f} min left" if done < len(jobs) else "then figures and videos"
            watch.say(f"{done:>4} / {len(jobs)}  {_name(job)}: {outcome}  ({then})")
    return failed


def _name(job: Job) -> str:
    """The name of a job for people."""
    return f"{job.folder.parent.name}, seed {job.config.seed}"


def gather(plan: Plan) -> None:
    """Writes the tables, from the run folders."""
    for figure in plan.figures:
        jobs = dataclasses.replace(plan, figures=(figure,)).named_jobs()
        curves = [row for name, job in jobs for row in tables.curve_rows(name, job.config.seed, job.folder)]
        tables.write_table(plan.out / f"{figure.name}.csv", tables.CURVE_COLUMNS, curves)
        if figure.episodes:
            episodes = [
                row for name, job in jobs for row in tables.episode_rows(name, job.config.seed, job.folder)
            ]
            tables.write_table(_episodes_of(plan.out, figure), tables.EPISODE_COLUMNS, episodes)
    scores = [_score(name, job) for name, job in plan.named_jobs()]
    tables.write_table(plan.out / "scores.csv", SCORE_COLUMNS, scores)


def _episodes_of(out: Path, figure: Figure) -> Path:
    return out / f"{figure.name}_episodes.csv"


def _score(variant: str, job: Job) -> Sequence[Any]:
    """The row of SCORE_COLUMNS of one run."""
    summary = json.loads((job.folder / "summary.json").read_text())
    greedy = read_evaluation(job.folder)
    ended = [row[3] for row in tables.curve_rows(variant, job.config.seed, job.folder) if row[3] != ""]
    last = ended[-1] if ended else ""
    means = f"{greedy.mean():.5g}", f"{greedy[:10].mean():.5g}"
    seconds = f"{summary['seconds']['total']:.1f}"
    return variant, summary["env"], summary["steps"], job.config.seed, *means, last, seconds


def render(out: Path, figures: Sequence[Figure]) -> None:
    """Draws the pictures and writes the page, from the tables in ``out`` alone."""
    for figure in figures:
        curves = tables.as_curves(tables.read_table(out / f"{figure.name}.csv"))
        dots = tables.as_dots(tables.read_table(_episodes_of(out, figure))) if figure.episodes else {}
        draw(out / f"{figure.name}.png", figure, curves, dots)
    about = json.loads((out / "about.json").read_text())
    write_text(out / "results.md", markdown(figures, tables.read_table(out / "scores.csv"), about))


def keep_best(out: Path, file: TextOut) -> None:
    """Keeps, for each task, the files of the best agent that the paper's settings or a variant of them made.

    The best agent has the highest mean over its 100 greedy episodes, at the paper's budget; of equal ones
    the first is kept.
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
        run, target = out / "runs" / row["variant"] / row["seed"], out / "best" / env
        with suppress(FileError):
            if read_json(target / "summary.json") == read_json(run / "summary.json"):
                continue
        shutil.rmtree(own_folder(out, target))
        own_folder(out, target)
        for name in ("config.json", "summary.json", "evaluation.csv", "curve.png"):
            write_bytes(target / name, read_plain(run / name, LARGEST_FILE))
        for events in run.glob("events.out.tfevents.*"):
            write_bytes(target / "events.out.tfevents.1", read_plain(events, LARGEST_FILE))
        doing, say = f"making the video of the best agent of {env}", partial(print, file=file, flush=True)
        say(doing)
        try:
            with announced(doing, say):
                film(load(run), target / "video", env=env)
        except (VideoError, CheckpointError) as error:
            print(error, file=file)
