"""The run folder: config, split, checkpoints and training state, written by training.

May import config, data and models.
"""
