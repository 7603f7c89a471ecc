"""The errors that are the user's to mend."""


class PoiseError(Exception):
    """Something the user can mend; its message is shown without a traceback.

    ``exit_code`` is what the command exits with: 2 for arguments, 1 for a run that failed.
    """

    exit_code = 2


DIVERGED = (
    "The usual cause is a learning rate that is too high (--ppo.policy-learning-rate, "
    "--ppo.value-learning-rate), or of rewards that are very large and not normalized."
)


TOO_LARGE = "The usual cause is observations or rewards whose squares overflow 32-bit floats."


class TrainingError(PoiseError):
    """A training that cannot go on."""

    exit_code = 1


MOST_TEXT = 2000  # characters of what someone else's code says


def message_of(error: BaseException) -> str:
    """Type and message of an exception of someone else's, of a length that a person reads."""
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as other:  # of its own __str__
        text = f"(its message cannot be shown: {type(other).__name__})"
    return f"{type(error).__name__}: {shortened(text)}" if text else type(error).__name__


def shortened(text: str, most: int = MOST_TEXT) -> str:
    """The text, or its beginning and its end."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} ... ({len(text) - 2 * half:,} characters left out) ... {text[-half:]}"


class StorageError(PoiseError):
    """A disk that is full. What was saved before is whole."""

    exit_code = 75
