"""Models: what they declare, where they are found and how they run. Usable without a server."""
