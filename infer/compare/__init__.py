"""Bands of several adapters side by side: the test set, the page, the ratings and what they say.

Imports infer/band/ and what is below it.
"""
