"""Scores over the rows of an evaluation set, their confidence intervals, and metrics of generated answers."""
