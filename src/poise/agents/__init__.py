"""A trained policy: loading, acting, scoring, filming and exporting it."""
