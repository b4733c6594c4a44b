"""What every room shares: configuration, errors, audio files, progress, the latent grid."""
