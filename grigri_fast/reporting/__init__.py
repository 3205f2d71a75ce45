"""Scores and runs in, figures and HTML pages out."""
