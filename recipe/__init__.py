"""How models/tiny/ is made; not shipped in the wheel."""
