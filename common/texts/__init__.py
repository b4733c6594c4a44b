"""The texts beside a song: how its files are called, how they are decoded, what a tag is.

Imports only common/errors.py.
"""
