"""The commands of `fundus-client`, one module each."""
