"""Every annotation of an array is checked; JAX refuses silent broadcasting and silent changes of dtype."""

import contextlib
import os
from pathlib import Path

# Compiling is most of what these tests do: XLA is asked for less of it. What depends on how a product's
# own code is compiled runs in a process without these flags.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Many tests compile the same functions: both workers share what either has compiled.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".pytest_cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
# and so do the processes that tests start
os.environ["JAX_COMPILATION_CACHE_DIR"] = jax.config.jax_compilation_cache_dir
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# The configuration checks itself, and its tests want to see that: it is loaded without the checker.
import poise.config  # noqa: E402

# A checked call costs 20 microseconds. So modules without arrays are left to pyright, and the one that calls
# itself for every attribute of every environment.
SOURCE = Path(poise.config.__file__).parents[1]
HOT = {"poise.envs.replay.inner"}
with_arrays = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in SOURCE.glob("poise/**/*.py")
    if "from jaxtyping import" in path.read_text()
}
hook = install_import_hook(sorted(with_arrays - HOT), "typecheck.checked")
hook.__enter__()

# with the costliest last, one of two workers would wait for the other
COSTLIEST = ("test_inspection.py", "test_update.py", "test_diagnosis.py", "test_faults.py", "test_resume.py")


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(COSTLIEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(autouse=True, scope="module")
def few_mappings():
    """A process that maps all that Linux allows ends with a segmentation fault; each shape that is compiled
    takes some hundred mappings."""
    yield
    try:
        mapped = Path("/proc/self/maps").read_bytes().count(b"\n")
        allowed = int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):  # another system
        return
    if mapped > allowed // 3:
        jax.clear_caches()


@pytest.fixture(autouse=True, scope="session")
def drawing():
    """Matplotlib takes as long as a short training: curve.png is an empty file, but in this context."""
    from poise.runs import recorder
    from poise.store.files import fresh_path

    def write_nothing(path, *_):
        with fresh_path(path) as fresh:
            fresh.touch()

    @contextlib.contextmanager
    def context():
        recorder.draw_curve = draw_curve
        yield
        recorder.draw_curve = write_nothing

    draw_curve, recorder.draw_curve = recorder.draw_curve, write_nothing
    yield context
    recorder.draw_curve = draw_curve
