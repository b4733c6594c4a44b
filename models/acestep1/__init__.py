"""ACE-Step v1: its networks under the published weight names, its lyric tokens, its sizes.

Imports common/ and models/device.py; nothing here knows adapters, shards or commands.
"""
