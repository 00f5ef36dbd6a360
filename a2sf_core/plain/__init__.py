"""Scores and decoding in plain PyTorch: the reference that kernels are held to, and what runs on a CPU."""
