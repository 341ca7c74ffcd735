"""Score what arrives in a folder, for as long as the process runs: `fundus-client watch`."""
