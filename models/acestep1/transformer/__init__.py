"""The flow network: a linear-attention transformer over latents, with the lyric encoder that it contains.

Imports common/ alone.
"""
