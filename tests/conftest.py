"""Every annotation is checked, and JAX refuses silent broadcasting and silent changes of dtype."""

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# The configuration checks itself, and its tests want to see that: it is loaded without the checker.
import poise.config  # noqa: E402, F401

hook = install_import_hook("poise", "typecheck.checked")
hook.__enter__()
