"""Which objective makes the best band for a vocal: each trained at equal cost and measured beside nulls."""
