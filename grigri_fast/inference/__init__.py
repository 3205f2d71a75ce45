"""A run and images in, probabilities or an exported file out.

May import config, data, models, pipeline and runs.
"""
