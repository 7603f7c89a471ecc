"""The folders of experiments and sweeps, and the last run that was not finished."""

import contextlib
from pathlib import Path

from poise.runs.folders import RunError, status
from poise.store.checkpoint import (
    checkpoints,
    runs_under,
)
from poise.store.claim import ClaimError, claimed

EXPERIMENT = "experiment.json"  # in a folder that holds the runs of several seeds, of one task or more


SWEEP = "sweep.json"  # in a folder that holds the trials of a sweep, and the runs of its judgement


def newest_unfinished(out: Path) -> Path:
    """The run under ``out`` that was saved last of those that are not finished and not being trained.

    Of one that belongs to an experiment or a sweep, the whole.

    Raises:
        RunError: there is none.
    """
    found = [(c[0].stat().st_mtime, run) for run in runs_under(out) if (c := checkpoints(run))]
    # between two batches a sweep has no unfinished run
    found += [(p.stat().st_mtime, p.parent) for p in out.glob(f"**/{SWEEP}")]
    for _, run in sorted(found, reverse=True):
        whole = _whole(run)
        if "finished" in (status(run), status(whole)):  # whole: a trial of a sweep that is done was stopped
            continue
        with contextlib.suppress(ClaimError), contextlib.ExitStack() as stack:
            for folder in dict.fromkeys((run, whole)):
                stack.enter_context(claimed(folder))
            return whole
    raise RunError(f"{out}: no unfinished run in this folder")


def _whole(run: Path) -> Path:
    """The experiment or the sweep that a run belongs to; itself where it belongs to none."""
    above = (run.parent, run.parent.parent, run.parent.parent.parent)
    return next((p for p in above if (p / EXPERIMENT).exists() or (p / SWEEP).exists()), run)
