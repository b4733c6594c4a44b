"""A vocal and an adapter in, an accompaniment out, and the judging of it."""
