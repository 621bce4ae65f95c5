"""Runs, model versions and the champion in MLflow; the only package that imports it."""
