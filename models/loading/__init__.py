"""Checkpoints opened part by part, with every weight accounted for, and which parts belong together.

Imports models/acestep1/, models/acestep15/ and common/.
"""
