"""Fixtures shared by the core tests."""

from __future__ import annotations

from typing import Any

import pytest

from . import models


@pytest.fixture(params=list(models.FAMILIES), scope="module")
def model(request: pytest.FixtureRequest) -> Any:
    """A model of each family."""
    return models.build(request.param)


@pytest.fixture(scope="module")
def llama() -> Any:
    """A grouped-query model."""
    return models.build("llama")
