"""The commands of `fundus-eval`, one module each."""
