"""Which way of hearing the vocal makes the best band: every objective trained at equal cost and heard beside nulls."""
