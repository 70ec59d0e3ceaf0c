"""What both ends of a gRPC connection hold to: the names of the streams, the bounds, gRPC's own settings."""

from __future__ import annotations

from decad.core.overlay import MOST_NEIGHBOURS
from decad.wire.limits import MAX_MESSAGE_BYTES

SERVICE = "decad.v1.Peer"
CHANNELS = ("control", "blocks", "fetch")
NONCE_KEY = "decad-link"
NONCE_CHARACTERS = 32
"""128 random bits in hex: no two links of one connection's address ever meet."""
IDENTITY_KEY, SIGNATURE_KEY = "decad-identity-bin", "decad-signature-bin"
"""Metadata of a `decad.wire.tls.Statement`, each way."""

MAX_ACCEPTED_LINKS = 2 * MOST_NEIGHBOURS
"""Twice, since both ends may dial at once. A hostile LAN can make us hold this many times two messages of
MAX_MESSAGE_BYTES, 1 GiB, and 128 descriptors."""
ASSEMBLY_S = 10.0
"""How long the three streams of a link may take to arrive: long for a slow network, short for a scanner."""
GRACE_S = 0.5
"""How long a closed link may take to deliver what was sent before; then it is cut."""
KEEPALIVE_MS = 15_000
"""A connection without traffic is pinged this often and given up when no answer comes for as long: the backstop
for hosts that vanish without a word. Beacons notice sooner; this frees what waits in the transport."""

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 8192),
    ("grpc.http2.bdp_probe", 1),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
    ("grpc.http2.max_pings_without_data", 0),
]
SERVER_OPTIONS = [
    *_OPTIONS,
    ("grpc.so_reuseport", 0),  # else a second daemon would silently share the port
    ("grpc.max_concurrent_streams", len(CHANNELS)),  # a link has its own connection
    ("grpc.max_connection_idle_ms", int(1000 * ASSEMBLY_S)),
    ("grpc.server_handshake_timeout_ms", int(1000 * ASSEMBLY_S)),
    # The default closes connections that ping more than once in five minutes.
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 3),
    ("grpc.http2.max_ping_strikes", 0),
]
CLIENT_OPTIONS = [
    *_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),  # else two links to one address would share a connection
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
]
