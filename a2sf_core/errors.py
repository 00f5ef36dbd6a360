"""The one error type a user of this package should ever have to read, and what is said once."""

import warnings
from functools import cache


class A2SFError(ValueError):
    """A mistake the user can mend.

    The message is one or two clear sentences: which field or file, what was expected, how to mend it.
    The command line prints it without a traceback and exits with code 2.
    """


@cache
def warn_once(said: str) -> None:
    """A warning in one sentence, once in a process."""
    warnings.warn(said, stacklevel=3)
