"""What CARD.md of models/tiny15/ begins with."""

HEADER = """# The tiny bundle of ACE-Step 1.5

ACE-Step 1.5's networks at small sizes in the original layout, trained by `python -m recipe.tiny15` on made-up songs
(`prep demo-songs`). It is for trying and testing, not for music. Every number below was measured on songs that nothing
was trained on.

The folders base and turbo hold the same weights, trained at the noise levels of base; nothing was distilled. They
differ in config.json, and so in how they are sampled.

The slot for a source was pretrained weakly, with the words of the task "complete": `mix_source_share` of the clips
whose target is the mix had latents of the vocal or of the accompaniment in it, either as often, and `inst_source_share`
of those whose target is the accompaniment had the vocal. All other clips had silence there, and the words of text to
music. So a vocal there is heard, and answered with the whole song more than with its accompaniment: docs/objectives.md
says by how much, and compares adapters.

diffusers' own classes open all of it but the VAE's encoder, which begins at 2 channels and ends at 128: diffusers' has
one setting for both. The VAE's residual units at 48000 Hz add nothing and were not trained. The deviation that its
encoder tells is `latent_noise` everywhere. Numbers are stored in 16 bits.

What tells instruments learnt them from songs that went through the VAE, but hears "true songs" as they are: it is
surer of the bundle's own songs than of those.
"""
