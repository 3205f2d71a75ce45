"""Scores and runs in; figures, and pages of one HTML file each, out.

A page is a template of ``templates/``, filled by ``html``; its figures are matplotlib's, behind
``plots``. May import config, evaluation, pipeline and runs.
"""
