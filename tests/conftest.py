"""What all tests share. Torch uses one thread: the models are tiny, and threads that wait for each other cost more."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("MLFLOW_TRACKING_URI", None)  # no test may write into the developer's own server
if not os.environ["CUDA_VISIBLE_DEVICES"]:
    # Before anything imports Triton: without a GPU its kernels run in its interpreter, on CPU tensors.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch  # after the settings above

    torch.set_num_threads(1)
