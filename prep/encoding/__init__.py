"""From a song's parts to arrays: separation, its gate, latents, self-supervised features, text states.

Imports prep/sources/, models/ and shards/.
"""
