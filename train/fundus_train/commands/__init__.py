"""The subcommands of `fundus-train`, one module each; `fundus_train.cli` registers them."""
