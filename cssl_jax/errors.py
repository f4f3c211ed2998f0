"""The errors that a user is expected to read: each message names the value and the way out."""


class UserError(ValueError):
    """Something the user gave is wrong. The command line prints it and exits with status 2."""


class RunError(RuntimeError):
    """A run cannot go on, though it was set up well. The command line exits with status 1."""


class StoppedRunError(RunError):
    """Whoever watches a run wants no more of it; what was done is saved."""


class InterruptedRunError(RunError):
    """A signal came; what was done is saved. The command line exits with status 75 (EX_TEMPFAIL).

    The same command goes on, so that a scheduler may tell "again" (75) from "failed" (1).
    """
