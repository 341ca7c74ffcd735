"""The subcommands of `fundus-train`, and what they share; `fundus_train.cli` registers them."""
