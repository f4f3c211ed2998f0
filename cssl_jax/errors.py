"""Errors whose messages are written for users: each names the wrong value and a way out."""


class UserError(ValueError):
    """Error in the user's input. The command line prints its message and exits with status 2."""


class MissingDataError(UserError):
    """A data source that does not exist, or a TFDS data set that is not prepared."""


class RunError(RuntimeError):
    """Failure of a correctly configured run. The command line exits with status 1."""


class StoppedRunError(RunError):
    """A hook stopped the run; its state has been saved."""


class InterruptedRunError(RunError):
    """A signal stopped the run; its state has been saved.

    The command line exits with status 75 (EX_TEMPFAIL), and the same command resumes the run. A
    scheduler can therefore distinguish "run again" (75) from "failed" (1).
    """


def short(value: object) -> str:
    """``repr`` of a value, cut to 80 characters. Messages use it to quote contents of files."""
    return cut(repr(value))


def cut(text: str) -> str:
    """A text, cut to 80 characters, for names in messages."""
    return text if len(text) <= 80 else text[:77] + "..."
