"""From files to a song's parts: found, decoded, aligned, checked, and divided into segments.

Imports common/, shards/ and prep/config.py.
"""
