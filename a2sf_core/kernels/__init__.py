"""The same work as `a2sf_core.plain` by Triton, on CUDA: the optional extra `a2sf-tune[triton]` (docs/gpu.md)."""
