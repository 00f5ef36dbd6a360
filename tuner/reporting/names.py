"""What the files of a run are called, for whoever hands them on."""

FRONT_FILE = "front.json"
REPORT_FILE = "report.json"
PARETO_PNG, PARETO_HTML = "pareto.png", "pareto.html"
HALF_LIFE_PNG, PROFILE_PNG, LEARNED_PNG = "half_life.png", "profile.png", "learned.png"
PICTURES = (PARETO_PNG, PARETO_HTML, HALF_LIFE_PNG, PROFILE_PNG, LEARNED_PNG, "profile.json", "learned.json")
"""Files beside the policy and the report, those that a run has."""
