"""From a vocal to a lead sheet: beats, key and chords for a band to play, inferred from the voice alone."""
