"""The probe, which needs everything at once, ends with the same bits wherever it stops and resumes.

It has an image, a number, a mask and an action of two parts; both networks remember. A copy of the run
folder is what a kill after that iteration would have left.
"""

import io
import random
import shutil

import pytest

import poise
from poise.config import Policy, Value
from poise.runs import session
from poise.store.checkpoint import checkpoints
from poise.system import cluster
from poise.training.loop import settled_iterations

pytestmark = pytest.mark.processes
ID = "recall:Recall-v0"
ITERATIONS = 12
ROLLOUT = 2 * 10  # an episode has 8 steps, so most rollouts end within one
WAYS = {
    "gymnasium": {"backend": "gymnasium"},
    "gymnasium-async": {"backend": "gymnasium-async"},
    "workers": {"backend": "gymnasium", "workers": 2},
}


@pytest.fixture(scope="module", autouse=True)
def ray():
    with cluster.joined(cluster.LOCAL, processes=2):
        yield


def trained(out, copies, **options):
    """The run, with copies of its folder: after iteration i, ``copies / str(i)``."""

    def copying(*given, **more):
        for progress in settled_iterations(*given, **more):
            if progress.iteration > 1:  # the one before it is in the folder
                (folder,) = (out / "recall-Recall-v0").iterdir()
                shutil.copytree(folder, copies / str(progress.iteration - 1))
            yield progress

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "settled_iterations", copying)
        return poise.train(
            ID,
            out=out,
            file=io.StringIO(),
            total_steps=ITERATIONS * ROLLOUT,
            num_envs=2,
            env_groups=2,
            ppo={"num_steps": 10, "num_epochs": 2, "minibatch_size": 10, "sequence_length": 5},
            policy=Policy(hidden=(8,), memory="gru", memory_size=8),
            value=Value(hidden=(8,), memory="lstm", memory_size=8),
            checkpoint_every=1,
            evaluate=False,
            video=False,
            **options,
        )


@pytest.mark.parametrize(
    ("way", "stops"),
    [
        ("gymnasium", 10),
        ("gymnasium-async", 10),
        ("workers", 2),  # each start takes seconds
        pytest.param("workers", 10, marks=pytest.mark.slow),
    ],
)
def test_the_probe_ends_with_the_same_bits_wherever_it_stops(way, stops, tmp_path):
    whole = trained(tmp_path / "whole", tmp_path, **WAYS[way])
    for stop in sorted(random.Random(0).sample(range(1, ITERATIONS), stops)):
        folder, shown = tmp_path / str(stop), io.StringIO()
        assert int(checkpoints(folder)[0].name) == stop * ROLLOUT
        again = poise.resume(folder, env=ID, file=shown)
        assert f"resuming from step {stop * ROLLOUT} of {ITERATIONS * ROLLOUT}" in shown.getvalue()
        for key in ("parameters_sha256", "exact", "steps", "status"):
            assert again.summary[key] == whole.summary[key], (key, stop, shown.getvalue())
        assert (again.summary["exact"], again.summary["resumed"]) == (True, 1)
