"""What can be measured of an accompaniment without any trained weights, one module per family."""
