"""Where the cut is made that a policy was tuned for: after the whole prompt, or before any question is known."""

from __future__ import annotations

from a2sf_core.errors import warn_once

PROMPT, CONTEXT = "prompt", "context"
CUTS = (PROMPT, CONTEXT)

AFTER_THE_PROMPT = (
    "This A2SF policy was tuned for a context that is cut before its question is known, and here the whole prompt was "
    "read first; read the context with a2sf_core.read_context, or tune with --cut prompt."
)
_BEFORE_THE_QUESTION = (
    "This A2SF policy was tuned for a cut after the whole prompt, and here a context was cut before its question was "
    "known; tune with --cut context."
)


def note_cut(tuned_for: str | None, is_last: bool) -> None:
    """Warn, once in a process, if a cut is not the one that a policy was tuned for, where that is known.

    Args:
        tuned_for: one of `CUTS`, or None.
        is_last: whether what follows stays, as behind a context.
    """
    if tuned_for == CONTEXT and not is_last:
        warn_once(AFTER_THE_PROMPT)
    if tuned_for == PROMPT and is_last:
        warn_once(_BEFORE_THE_QUESTION)
