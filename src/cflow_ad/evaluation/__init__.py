"""Honest numbers: streaming metrics, evaluation of a data set, figures, the report."""
