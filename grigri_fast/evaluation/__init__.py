"""Probabilities and targets in, thresholds and scores with intervals out."""
