"""A page on this machine: a run and its data in, corrected labels out.

``serve`` scores the run's validation part once and then answers a browser: try the model on
photographs, review labels that are likely wrong. May import config, data, pipeline, runs,
inference, evaluation, reporting and curation.
"""
