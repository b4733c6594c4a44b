"""Makes models/tiny15/, ACE-Step 1.5's networks at small sizes: of random weights, or trained on made-up songs."""
