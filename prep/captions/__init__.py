"""Prompts and lead sheets for songs that have none, from what can be measured of their sound.

Imports prep/sources/.
"""
