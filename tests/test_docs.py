"""What the pages name is there."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALGORITHM = (ROOT / "docs" / "algorithm.md").read_text()
NAMED = [
    (file, name.strip())
    for file, names in re.findall(r"(\w+)\.py:\s+(\w+(?:, \w+)*)", ALGORITHM)
    for name in names.split(",")
]


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_each_function_the_algorithm_page_names_exists(file, name):
    assert hasattr(importlib.import_module(f"poise.{file}"), name)


def test_each_test_the_algorithm_page_names_exists():
    sources = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", ALGORITHM)
    assert len(named) == 6
    for name in named:
        assert f"def {name}(" in sources


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/design.md", "docs/algorithm.md"])
def test_links_and_named_files_exist(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target


def test_the_design_page_names_every_file():
    text = (ROOT / "docs" / "design.md").read_text()
    small = {"__init__", "__main__", "errors", "counts", "cores", "clock", "vector"}
    for path in (ROOT / "src" / "poise").rglob("*.py"):
        if path.stem not in small and "tasks" not in path.parts:
            assert f"{path.name}`" in text, path.name
