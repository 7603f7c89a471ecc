"""The errors that are the user's to mend."""


class PoiseError(Exception):
    """Something the user can mend; its message is shown without a traceback.

    ``exit_code`` is what the command exits with: 2 for arguments, 1 for a run that failed.
    """

    exit_code = 2


DIVERGED = (
    "Mostly that comes of a learning rate that is too high (--ppo.policy-learning-rate, "
    "--ppo.value-learning-rate), or of rewards that are very large and not normalized."
)


TOO_LARGE = "Mostly that comes of observations or rewards so large that their squares leave 32 bits."


class TrainingError(PoiseError):
    """A training that cannot go on."""

    exit_code = 1


class StorageError(PoiseError):
    """A disk that is full. What was saved before is whole."""

    exit_code = 75
