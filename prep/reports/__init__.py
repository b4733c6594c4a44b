"""Questions about songs and shards, answered: what they hold, what is stale, what a build would take.

Imports the other wings of prep/.
"""
