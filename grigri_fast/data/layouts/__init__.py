"""The layouts of labels: one reader per layout, and how to tell which one some data have.

A path comes in, :class:`labels.Labels` come out. To add a layout, write a reader in a module of its
own and name it in the table in :mod:`detect`.
"""

from .detect import read_labels
from .labels import IMAGE_SUFFIXES, HowLabels, LabelOptions, Labels

__all__ = ["IMAGE_SUFFIXES", "HowLabels", "LabelOptions", "Labels", "read_labels"]
