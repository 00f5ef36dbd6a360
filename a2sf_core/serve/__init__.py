"""Serving a policy: many prompts at once over one model, by memory; an OpenAI-compatible address in front of it."""
