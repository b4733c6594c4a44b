"""Measures of bands beside those of anchors, and the report.

Imports infer/compare/ (for its page) and what is below it.
"""
