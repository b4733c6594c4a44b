"""Songs in, shards of latents out."""
