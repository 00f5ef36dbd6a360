"""Fixtures shared by the core tests. Torch uses one thread: the models are tiny and the machine is shared."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from . import models


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=list(models.FAMILIES), scope="module")
def model(request: pytest.FixtureRequest) -> Any:
    """A model of each family."""
    return models.build(request.param)


@pytest.fixture(scope="module")
def llama() -> Any:
    """A grouped-query model."""
    return models.build("llama")
