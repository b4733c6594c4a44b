"""ACE-Step 1.5: diffusers' own networks behind models/protocols.py, and their published sizes.

Imports common/ and, of models/, what lies beside the base models; nothing here knows adapters, shards or commands.
"""
