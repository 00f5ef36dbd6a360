"""The optimisation service: studies for a team over HTTP, with a page for people."""
