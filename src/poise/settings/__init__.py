"""Settings with names: presets, files, and what other libraries call them."""
