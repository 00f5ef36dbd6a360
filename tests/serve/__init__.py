"""Serving, with the real engine, the real server in a process of its own, and the real client."""
