"""Makes models/tiny15/: ACE-Step 1.5's networks at small sizes, with seeded random weights.

For tests of the rooms: nothing is learnt, so what it makes is noise that depends on all that it should depend on.
"""
