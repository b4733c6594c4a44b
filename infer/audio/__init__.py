"""Waves in and out: recordings of any length, reference accompaniments, what is written, and its picture.

Imports models/ and common/.
"""
