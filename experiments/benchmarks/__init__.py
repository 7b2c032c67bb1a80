"""How fast things are, one script per question."""
