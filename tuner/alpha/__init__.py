"""Which alpha suits an input: the regressor, what it rests on, and its advice."""
