"""Many trainings at once, and what is made of them: several seeds, the figures of the paper."""
