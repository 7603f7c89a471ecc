"""The size of the house: how much there is to read, and how it is cut. DESIGN.md's limits, counted."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import poise

ROOT = Path(poise.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
APART = {"encoders.py", "memory.py", "groups.py", "descent.py"}  # these have a budget of their own

Function = ast.FunctionDef | ast.AsyncFunctionDef
BLOCKS = ast.If | ast.For | ast.AsyncFor | ast.While | ast.With | ast.AsyncWith | ast.Try | ast.Match


def functions() -> Iterator[tuple[str, Function]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, Function):
                yield f"{path.relative_to(ROOT)}: {node.name}", node


def num_lines(function: Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def num_arguments(function: Function) -> int:
    """Arguments that a caller gives: without self and cls."""
    args = function.args
    names = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def nesting(node: ast.AST) -> int:
    """How many blocks stand in each other at most; an ``elif`` is as deep as its ``if``."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef | ast.Lambda):
            continue  # counted by themselves
        is_elif = isinstance(child, ast.If) and isinstance(node, ast.If) and node.orelse == [child]
        deepest = max(deepest, nesting(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def test_counters_agree_with_a_count_by_hand():
    (function,) = ast.parse(
        "def f(self, a, *, b):\n"
        "    if a:\n"
        "        pass\n"
        "    elif b:\n"
        "        for _ in a:\n"
        "            with b:\n"
        "                pass\n"
    ).body
    assert isinstance(function, ast.FunctionDef)
    assert (num_lines(function), num_arguments(function), nesting(function)) == (7, 2, 3)


def test_the_algorithm_is_read_in_one_sitting():
    """docs/design.md, decision 13, has the number, and why it is not 900."""
    lines = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "algo").glob("*.py")}
    assert sum(count for name, count in lines.items() if name not in APART) <= 1119
    assert sum(lines.values()) <= 1803


def test_a_folder_holds_few_modules():
    modules = Counter(path.parent.relative_to(ROOT) for path in FILES)
    assert modules.pop(Path()) <= 12
    assert max(modules.values()) <= 16


def test_a_function_fits_a_screen():
    assert [name for name, each in functions() if num_lines(each) > 50 and name != "api.py: train"] == []


def test_blocks_are_nested_three_deep_at_most():
    assert [name for name, each in functions() if nesting(each) > 3] == []


def test_few_functions_have_more_than_seven_arguments():
    many = [name for name, each in functions() if num_arguments(each) > 7]
    assert len(many) <= 3, many
