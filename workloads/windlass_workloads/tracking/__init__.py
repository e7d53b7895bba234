"""Experiment tracking: one MLflow run per job across all its restarts, and never a reason for training to wait."""
