"""What is only speed: on which device an update runs, and compiled in how many pieces."""
