"""`python -m fundus_train` is `fundus-train`."""

from fundus_train.cli import main

main()
