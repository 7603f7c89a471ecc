"""The errors that a user can fix."""


class PoiseError(Exception):
    """An error that the user can fix; the command shows its message without a traceback.

    ``exit_code``: that of the command. 2 for wrong arguments, 1 for a run that failed.
    """

    exit_code = 2


DIVERGED = (
    "The usual cause is a learning rate that is too high (--ppo.policy-learning-rate, "
    "--ppo.value-learning-rate), or very large rewards that are not normalized."
)


TOO_LARGE = "The usual cause is observations or rewards whose squares overflow 32-bit floats."


class TrainingError(PoiseError):
    """A training that cannot continue."""

    exit_code = 1


def with_notes(error: BaseException) -> str:
    """The message of an error, and below it the notes that were added, such as what to do about it."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


MOST_TEXT = 2000  # characters of a message from other code


def message_of(error: BaseException) -> str:
    """Type and message of an exception from other code, shortened to a readable length."""
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as other:  # its __str__ failed
        text = f"(its message cannot be shown: {type(other).__name__})"
    return f"{type(error).__name__}: {shortened(text)}" if text else type(error).__name__


def shortened(text: str, most: int = MOST_TEXT) -> str:
    """The text; of a text longer than ``most`` characters, its beginning and its end."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} ... ({len(text) - 2 * half:,} characters left out) ... {text[-half:]}"


class StorageError(PoiseError):
    """The disk is full. Everything that was saved before is complete."""

    exit_code = 75
