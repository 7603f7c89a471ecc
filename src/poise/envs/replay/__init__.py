"""How a resumed training repeats its unfinished episodes."""
