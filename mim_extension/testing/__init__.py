"""Stand-ins for MIM, for tests and demonstrations outside it. The extension itself never imports them."""
