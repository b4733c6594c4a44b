"""The networks, with ACE-Step's weight names, and the mathematics around them."""
