"""One file per change; the number in front is its version."""
