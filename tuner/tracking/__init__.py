"""The study's view in MLflow, rebuilt from its trials at any time."""
