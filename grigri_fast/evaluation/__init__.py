"""A run, or probabilities and targets, in; thresholds and scores with intervals out.

May import config, data, pipeline, inference and runs.
"""
