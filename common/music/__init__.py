"""What a musician writes down of a song: chords, keys, lead sheets, and their form on a latent grid.

`measures` hears some of it in a wave, and `measured_tags` says in words what of that is sure.
"""
