"""Small random models that the tests share, and the bundled reference model."""

from __future__ import annotations

import os

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if not os.environ["CUDA_VISIBLE_DEVICES"]:
    # Before anything imports Triton: without a GPU its kernels run in its interpreter, on CPU tensors.
    os.environ.setdefault("TRITON_INTERPRET", "1")
