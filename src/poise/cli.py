"""The command ``poise``."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

from poise.config import Config
from poise.counts import parse_count
from poise.errors import PoiseError

_registry = ConstructorRegistry()


@_registry.primitive_rule
def _count(info: Any) -> PrimitiveConstructorSpec[int] | None:
    """Every whole number on the command line may be written as 100k or 1e6."""
    if info.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda given: parse_count(given[0]),
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


def train(
    env: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")],
    /,
    config: Annotated[Config, tyro.conf.arg(name="")] = Config(),  # noqa: B008
    backend: Literal["auto", "mujoco", "native", "gymnasium", "gymnasium-async"] = "auto",
    out: Path = Path("runs"),
    evaluate: bool = True,
    json_: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Train an agent, score it, and keep both in a folder.

    Args:
        env: The environment's name, for example InvertedPendulum-v4, Pendulum-v1 or CartPole-v1.
        config: Everything that decides what is learned.
        backend: What steps the environments; auto takes the fastest that has ENV.
        out: The folder in which run folders are made.
        evaluate: Whether the greedy agent plays 100 episodes at the end.
        json_: Print the summary as JSON on standard output, everything else on standard error.
    """
    begun = time.perf_counter()
    from poise import run

    loaded = time.perf_counter() - begun
    file = sys.stderr if json_ else sys.stdout
    result = run.train(
        env, config, backend=backend, out=out, evaluate_after=evaluate, import_seconds=loaded, file=file
    )
    summary = result.summary
    if result.evaluation is not None:
        print(_score(result.evaluation), file=file)
    pace = summary["steps_per_second"]
    print(
        f"{summary['steps']:,} steps in {summary['seconds']['total']:.1f} s"
        + (f", {pace:,.0f} steps/s while training" if pace else ""),
        file=file,
    )
    print(json.dumps({**summary, "folder": str(result.folder)}, indent=2) if json_ else result.folder)


def _score(evaluation: Any) -> str:
    low, high = evaluation.interval
    return (
        f"greedy return {_figure(evaluation.mean)} over {len(evaluation.length)} episodes "
        f"(95% interval {_figure(low)} to {_figure(high)})"
    )


def _figure(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code.

    0 done; 1 the run or its environment failed; 2 wrong arguments; 130 interrupted.
    """
    try:
        with _registry:
            tyro.extras.subcommand_cli_from_dict(
                {"train": train},
                prog="poise",
                description="Proximal Policy Optimization: train an agent with one command.",
                args=arguments,
            )
    except PoiseError as error:
        print(f"poise: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("poise: interrupted; what was logged is kept", file=sys.stderr)
        return 130
    return 0
