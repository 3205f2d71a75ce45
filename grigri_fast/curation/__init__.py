"""A data set in: damaged files, near-duplicates and labels that are likely wrong out.

Or photographs without labels in, and those out that are worth labelling next.

May import config, data, evaluation, inference, pipeline, reporting, runs and training.
"""
