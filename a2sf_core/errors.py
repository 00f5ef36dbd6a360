"""The one error type a user of this package should ever have to read."""


class A2SFError(ValueError):
    """A mistake the user can mend.

    The message is one or two clear sentences: which field or file, what was expected, how to mend it.
    The command line prints it without a traceback and exits with code 2.
    """
