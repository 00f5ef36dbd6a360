"""The alpha regressors of studies, kept at hand: /v1/suggest is asked for every request that somebody serves."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from a2sf_core.config import FILE_NAME, A2SFConfig
from a2sf_core.errors import A2SFError
from tuner.service.desk import Desk
from tuner.service.problems import Problem
from tuner.workers.words import STUDY

if TYPE_CHECKING:
    from tuner.alpha.model import AlphaModel

_HELD = 10.0  # seconds for which a study is not looked up again
_MOST = 1000


def warm() -> None:
    """Import what the first question needs: scipy, which takes longer than all the rest of the service."""
    import tuner.alpha.model  # noqa: F401


Regressor = tuple["AlphaModel", str]
"""The model, and the name of its task."""


class Regressors:
    """Those of studies that were asked for lately, by owner and study."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._held: dict[tuple[str, str], tuple[float, Regressor]] = {}

    async def of(self, owner: str, study: str) -> Regressor:
        """That of the owner's study.

        Raises:
            Problem: 404 if there is no such study, or it has found no policy.
        """
        until, held = self._held.get((owner, study), (0.0, None))
        if held is not None and time.monotonic() < until:
            return held
        found = await asyncio.to_thread(self._read, owner, study)
        if len(self._held) >= _MOST:
            self._held.clear()
        self._held[owner, study] = (time.monotonic() + _HELD, found)
        return found

    def _read(self, owner: str, study: str) -> Regressor:
        self._desk.job(owner, STUDY, study)
        path = self._desk.places.study(study) / FILE_NAME
        if not path.is_file():
            raise Problem(404, f"the study {study!r} has found no policy yet.")
        from tuner.alpha.model import AlphaModel

        config = A2SFConfig.from_pretrained(path)
        if config.alpha_model is None:
            raise A2SFError(f"the policy of {study!r} holds no alpha regressor.")
        return AlphaModel.from_dict(config.alpha_model, "alpha_model"), config.task
