"""The error that a user can mend."""


class UserError(Exception):
    """A mistake that the user can mend: one line that says what, how much, the limit and the way out.

    Commands print it on stderr after "error: " and exit with code 2; no traceback is shown.
    """
