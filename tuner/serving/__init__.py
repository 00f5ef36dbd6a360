"""The command that serves a model with a tuned policy."""
