"""ACE-Step 1.5: diffusers' own networks behind models/protocols.py, and their published sizes.

Imports common/ and models/protocols.py; nothing here knows adapters, shards or commands.
"""
