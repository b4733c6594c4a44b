"""Shards in, an adapter out."""
