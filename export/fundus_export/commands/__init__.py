"""The subcommands of `fundus-export`, one module each; `fundus_export.cli` registers them."""
