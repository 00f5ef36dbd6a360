"""Names that the user may choose from; light, so that the command line can check them before anything heavy is read."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from a2sf_core.errors import A2SFError

FAMILIES = ("uniform", "slope", "bump", "profile", "groups", "free")
SAMPLERS = ("tpe", "tpe-univariate", "nsga2", "gp", "random")


def check_choice(option: str, given: str, known: Sequence[str]) -> None:
    """Raise A2SFError, with the nearest name, if ``given`` is not one of ``known``."""
    if given not in known:
        near = difflib.get_close_matches(given, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}."
        raise A2SFError(f"{option} is {given!r}; {hint}")
