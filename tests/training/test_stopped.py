"""A loop that is stopped: it ends with the iteration that it has yielded, whatever was started ahead."""

import dataclasses

import jax
import pytest
from test_blocks import CONFIG, rows_of, same, world
from test_together import in_turn

from poise.placement.lanes import Lanes
from poise.placement.mesh import Layout
from poise.training import blocks
from poise.training.groups import make_collector
from poise.training.loop import Around, Start, choose_layout, follow, settle, settled_iterations

ENV, STOP = "Pendulum-v1", 3


def training(seed=0, *, last=None, start=None, lanes=None, one_program=False, tell=None):
    """``last``: the number of the iteration after which it is stopped."""
    config = dataclasses.replace(CONFIG, seed=seed)
    collector = make_collector(world(ENV, config.num_envs), config)
    config = settle(config, collector.spec, new=start is None)
    layout = Layout.of(1, jax.devices()[:1]) if one_program else None
    if lanes is not None:
        layout = choose_layout(config, collector, 1, lanes.count)
    done = []
    around = Around(tell or (lambda number, count: None), lambda: last is not None and last in done)
    # a block ends after each iteration, so that it can be stopped there
    pauses = (config.rollout_size,)
    iterations = settled_iterations(
        config, collector, start, layout=layout, pauses=pauses, lanes=lanes, around=around
    )
    for progress in iterations:
        if progress is not None:
            done.append(progress.iteration)
        yield progress


@pytest.mark.parametrize("one_program", [False, True], ids=["parts", "blocks"])
def test_it_ends_there_and_continues_as_if_it_had_not(one_program):
    whole = list(training(one_program=one_program))
    assert len(rows_of(whole)) > STOP + 1
    short = list(training(last=STOP, one_program=one_program))
    assert [p.iteration for p in short] == [1, 2, STOP]
    assert short[-1].world is not None
    same(short[-1].state, whole[STOP - 1].state)
    rest = list(training(start=Start(short[-1].state, short[-1].world), one_program=one_program))
    assert rest[0].iteration == STOP + 1
    same(rest[-1].state, whole[-1].state)
    assert [r.metrics for r in rows_of(rest)] == [r.metrics for r in rows_of(whole)[STOP:]]


def test_the_others_hear_after_how_many_iterations_it_ended():
    """The block after them is computed by all, since it was started ahead; then nothing more is."""
    told = []
    list(training(last=STOP, one_program=True, tell=lambda *run: told.append(run)))
    assert told == [(0, 1), (1, 1), (2, 1), (3, 1), (STOP, blocks.STOP)]
    told.clear()
    list(training(last=1, one_program=True, tell=lambda *run: told.append(run)))
    assert told == [(0, 1)]  # nothing is started ahead of the first


def test_one_that_follows_counts_no_block_that_was_dropped():
    def followed(*commands):
        collector = make_collector(world(ENV, CONFIG.num_envs), CONFIG)
        config = settle(CONFIG, collector.spec, new=True)
        return follow(config, collector, None, Layout.of(1, jax.devices()[:1]), commands)

    assert followed((0, 1), (1, 2), (3, 2), (3, blocks.STOP)) == 3
    assert followed((0, 1), (1, 2), (3, 2)) == 5
    assert followed((0, 1), (1, 2), (3, 0)) == 3  # none of them may be repeated


def test_a_lane_that_stops_changes_nothing_in_the_others():
    (whole, other) = in_turn([training(seed, lanes=lanes) for lanes in [Lanes(2)] for seed in (1, 2)])
    (short, beside) = in_turn(
        [training(seed, last=last, lanes=lanes) for lanes in [Lanes(2)] for seed, last in ((1, 2), (2, None))]
    )
    assert [p.iteration for p in short] == [1, 2]
    same(short[-1].state, whole[1].state)
    same(beside[-1].state, other[-1].state)
    assert len(rows_of(beside)) == len(rows_of(other))
