"""Many trainings: experiments, comparisons, sweeps, the paper, reports."""
