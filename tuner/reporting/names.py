"""What the files of a run are called, for whoever hands them on."""

FRONT_FILE = "front.json"
REPORT_FILE = "report.json"
PICTURES = (
    "pareto.png", "pareto.html", "half_life.png", "profile.png", "learned.png", "profile.json", "learned.json",
)  # fmt: skip
"""Files beside the policy and the report, those that a run has."""
