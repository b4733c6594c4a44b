"""Makes models/tiny15/: ACE-Step 1.5's networks at small sizes, trained on made-up songs."""
