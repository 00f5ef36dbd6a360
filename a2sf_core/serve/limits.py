"""What a request may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Attributes:
        context: tokens of prompt and answer together.
        most: tokens to write where the client does not say.
        body: bytes.
        seconds: for the whole answer.
    """

    context: int
    most: int = 512
    body: int = 1_000_000
    seconds: float = 600.0
