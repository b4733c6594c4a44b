"""What a musician writes down of a song: chords, keys, lead sheets, and their form on a latent grid. No sound here."""
