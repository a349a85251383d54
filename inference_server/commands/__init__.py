"""The subcommands of `inference-server`, a module per group."""
