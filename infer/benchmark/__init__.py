"""A protocol that anyone can rerun: systems on the test songs of a data set, measured beside anchors.

Imports infer/evaluate/ and what is below it.
"""
