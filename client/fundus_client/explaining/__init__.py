"""Which places of a photograph the ensemble's probability depends on, asked through running servers."""
