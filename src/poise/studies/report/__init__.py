"""The HTML page of runs, and the charts in it."""
