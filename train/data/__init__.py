"""From shards to a step: which songs, in what order, cut how. A pure function of manifest, seed and epoch.

Imports train/config.py, models/ and shards/.
"""
