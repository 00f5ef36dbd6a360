"""What all tests share. Each process has one thread: the models are tiny, and threads that wait for each other cost.

Torch takes the number from the environment, and so do the processes that tests start.
"""

from __future__ import annotations

import os

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("MLFLOW_TRACKING_URI", None)  # no test may write into the developer's own server
if not os.environ["CUDA_VISIBLE_DEVICES"]:
    # Before anything imports Triton: without a GPU its kernels run in its interpreter, on CPU tensors.
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: `make test` hands files out in this order, and no worker shall end with a long one."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
