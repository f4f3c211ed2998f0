"""The errors that a user is expected to read: each message names the value and the way out."""


class UserError(ValueError):
    """Something the user gave is wrong. The command line prints it and exits with status 2."""


class RunError(RuntimeError):
    """A run cannot go on, though it was set up well. The command line exits with status 1."""
