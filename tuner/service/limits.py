"""What an owner may have, and a request bring."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bytes and numbers.

    Attributes:
        upload: bytes of one file of samples.
        disk: bytes of all samples and ended studies of one owner.
        waiting: studies of one owner that wait or run.
        room: bytes that must be free on the disk before anything is taken in.
        body: bytes of any other request.
        validations: of one owner that wait or run.
        checks: processes that read new studies at once.
        checks_waiting: studies that wait for one.
    """

    upload: int
    disk: int
    waiting: int
    room: int
    body: int = 1_000_000
    validations: int = 10
    checks: int = 2
    checks_waiting: int = 20
