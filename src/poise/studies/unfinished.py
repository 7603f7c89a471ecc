"""The folders of experiments and sweeps, and the newest unfinished run."""

import contextlib
from pathlib import Path

from poise.runs.folders import RunError, status
from poise.store.checkpoint import checkpoints, runs_under
from poise.store.claim import ClaimError, claimed

EXPERIMENT = "experiment.json"  # in the folder of an experiment
SWEEP = "sweep.json"  # in the folder of a sweep


def newest_unfinished(out: Path) -> Path:
    """The folder under ``out`` that was saved last, of those that are neither finished nor being trained.

    For a run that belongs to an experiment or a sweep, the folder of that.

    Raises:
        RunError: there is none.
    """
    saved = [(c[0].stat().st_mtime, run) for run in runs_under(out) if (c := checkpoints(run))]
    # between two batches a sweep has no unfinished run
    saved += [(p.stat().st_mtime, p.parent) for p in out.glob(f"**/{SWEEP}")]
    for _, run in sorted(saved, reverse=True):
        study = _study(run)
        if "finished" in (status(run), status(study)):  # the runs of a finished sweep may be stopped ones
            continue
        with contextlib.suppress(ClaimError), contextlib.ExitStack() as stack:
            for folder in dict.fromkeys((run, study)):
                stack.enter_context(claimed(folder))
            return study
    raise RunError(f"{out}: no unfinished run in this folder")


def _study(run: Path) -> Path:
    """The experiment or sweep that a run belongs to, or else the run itself."""
    parents = (run.parent, run.parent.parent, run.parent.parent.parent)
    return next((p for p in parents if (p / EXPERIMENT).exists() or (p / SWEEP).exists()), run)
