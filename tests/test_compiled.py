import os
import subprocess
import sys
from pathlib import Path

import pytest

from poise import compiled

SCRIPT = """
import jax
from poise.compiled import keep_compiled
keep_compiled({keep})
jax.jit(lambda x: x + 1)(1.0)
print(jax.config.jax_compilation_cache_dir)
"""


def run(cache, keep=True, **environment):
    """Where JAX keeps what it compiled, of a process that compiles one function."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(keep=keep)],
        env=inherited | {"XDG_CACHE_HOME": str(cache)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_what_was_compiled_is_kept_in_a_folder_of_the_users_own(tmp_path):
    folder = Path(run(tmp_path))
    assert folder == tmp_path / "poise" / compiled._key()
    assert folder.stat().st_mode & 0o777 == 0o700
    kept = sorted(folder.iterdir())
    assert kept
    assert run(tmp_path) == str(folder)
    assert sorted(folder.iterdir()) == kept  # nothing was compiled again


def test_nothing_is_kept_where_that_is_not_wanted_or_configured_otherwise(tmp_path):
    assert run(tmp_path, keep=False) == "None"
    assert run(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine")) == str(tmp_path / "mine")
    assert not (tmp_path / "poise").exists()


def test_a_folder_that_others_may_write_or_that_cannot_be_made_is_not_used(tmp_path):
    (tmp_path / "poise" / compiled._key()).mkdir(parents=True)
    (tmp_path / "poise" / compiled._key()).chmod(0o777)
    assert run(tmp_path) == "None"
    (tmp_path / "file").touch()
    assert run(tmp_path / "file") == "None"


def test_another_processor_or_version_has_another_folder(monkeypatch):
    here = compiled._key()
    assert here == compiled._key()
    monkeypatch.setattr(compiled, "processor", lambda: "model name: another")
    assert compiled._key() != here
    monkeypatch.undo()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.1")
    assert compiled._key() != here


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no Linux")
def test_the_processor_is_known_by_its_instruction_sets():
    assert any(line.startswith(("flags", "Features")) for line in compiled.processor().splitlines())


def test_what_was_compiled_is_dropped_before_the_process_may_map_no_more(monkeypatch):
    cleared = []
    monkeypatch.setattr(compiled.jax, "clear_caches", lambda: cleared.append(1))
    mappings = 21_843
    monkeypatch.setattr(Path, "read_text", lambda path: "65530\n")
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"address\n" * mappings)
    compiled.forget_compiled()
    assert not cleared
    mappings += 1
    compiled.forget_compiled()
    assert cleared == [1]
