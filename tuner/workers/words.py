"""What workers and the processes of jobs say to each other; light, as such a process is started for every request."""

STUDY, VALIDATION = "study", "validation"
"""Kinds of jobs."""
BUSY = 75
"""The exit code of a job whose folder another process holds still."""
USER_ERROR = 2
"""That of one that has told its mistake."""
