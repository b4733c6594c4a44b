"""Waves to latents and back: log-mel, the DCAE's two halves, the vocoder. Training imports none of it.

Imports common/ and models/device.py.
"""
