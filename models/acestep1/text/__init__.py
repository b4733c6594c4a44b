"""Prompts and lyrics as the transformer takes them: text states of UMT5, token ids of lyrics.

Imports models/acestep1/transformer/ (for entropy rectifying guidance) and common/.
"""
