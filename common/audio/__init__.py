"""Audio files in and out, as blocks and whole, and what is measured of a wave. Imports nothing outside common/."""
