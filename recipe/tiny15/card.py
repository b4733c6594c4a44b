"""What CARD.md of models/tiny15/ begins with."""

HEADER = """# The tiny bundle of ACE-Step 1.5

ACE-Step 1.5's networks at small sizes in the original layout, trained by `python -m recipe.tiny15` on made-up songs
(`prep demo-songs`). It is for trying and testing, not for music. Every number below was measured on songs that nothing
was trained on.

The folders base and turbo hold the same weights, trained at the noise levels of base; nothing was distilled. They
differ in config.json, and so in how they are sampled.

The slot for a source was pretrained weakly: of the clips whose target is the mix, `source_share` had latents of the
vocal or of the accompaniment in it, either as often, and the words of the task "complete". No accompaniment was ever
made from a vocal alone: that is left to adapters. All other clips had silence there, and the words of text to music.

diffusers' own classes open all of it but the VAE's encoder, which begins at 2 channels and ends at 128: diffusers' has
one setting for both. The VAE's residual units at 48000 Hz add nothing and were not trained. The deviation that its
encoder tells is `latent_noise` everywhere. Numbers are stored in 16 bits.
"""
