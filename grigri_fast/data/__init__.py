"""Photographs and their labels: files in, a :class:`dataset.Dataset` and its split out.

Also the two data sets that the program can provide: drawn scenes (``demo``) and a public one
(``mirflickr``). Imports no other part of the program.
"""
