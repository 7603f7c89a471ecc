"""Whether a run or an environment is healthy: `doctor`, `check` and `diff`."""
