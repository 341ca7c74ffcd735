"""Score folders of photographs through a Triton server: files -> requests -> scores.csv and run.json."""

import os

# gRPC reads this when it is imported: it would write a line of its own on stderr for each refused handshake.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
