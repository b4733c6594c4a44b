"""The band for a vocal: networks opened, latents sampled, waves decoded and written.

Imports infer/request/ and infer/audio/.
"""
