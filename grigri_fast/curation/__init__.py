"""A data set in; what it holds out: damaged files, near-duplicates, labels that are likely wrong.

May import config, data, evaluation, inference, pipeline, reporting, runs and training.
"""
