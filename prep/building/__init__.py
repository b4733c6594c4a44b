"""From a folder of songs to shards: what is new, who encodes it, what is kept, how it is packed and mended.

Imports prep/sources/ and prep/encoding/.
"""
