"""Bytes between peers: messages, links of channels, and what they cost."""

import os

# gRPC's C core writes to stderr by itself (a GOAWAY on every stop); decad reports what matters in its own words.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
