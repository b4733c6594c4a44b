"""The harmoniser: a small network that names key and chords of a vocal, trained on songs whose lead sheets are known.

It sees features of vocals and lead sheets, no latents.
"""
