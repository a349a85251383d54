"""Changes of the tables, oldest first. Each one is additive for one release."""
