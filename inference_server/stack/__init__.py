"""The embedded stack: everything the server needs on one machine, started and stopped together."""
