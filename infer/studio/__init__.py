"""The studio: a local page where a vocal is recorded or dropped, and bands made for it are heard side by side.

Imports infer/evaluate/, infer/band/, infer/request/ and infer/audio/.
"""
