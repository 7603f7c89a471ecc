"""The Python of the page about training in Python runs, block by block."""

import contextlib
import io

import pytest
from pages import blocks

pytestmark = pytest.mark.pages
PYTHON = blocks("python.md", "python")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Name space, and what was printed, after all blocks in their order."""
    names, printed = {}, []
    with contextlib.chdir(tmp_path_factory.mktemp("page")):
        for block in PYTHON:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(block, names)
            printed.append(out.getvalue())
    return names, printed


def test_each_block_runs_and_says_what_the_page_says(ran):
    names, printed = ran
    assert len(PYTHON) == 6
    assert "finished" in printed[0].splitlines()[-1]
    assert printed[1].count("\n") > 20  # a line of each iteration
    assert "on_iteration two scores in a row above 30" in printed[2].splitlines()[-1]
    assert names["session"].run.summary["stopped_by"] == "loop"
    steps, rest = names["same"].steps, names["rest"]
    assert steps > 4_000
    size = names["progress"].config.rollout_size
    assert rest == list(range(steps + size, 8_001, size))
