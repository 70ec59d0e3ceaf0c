"""What gRPC says about a failed connection, in plain words."""

from __future__ import annotations

import pytest

from decad.wire.reasons import plain_reason


@pytest.mark.parametrize(
    ("code", "details", "words"),
    [
        (
            "UNAVAILABLE",
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to connect to "
            "remote host: Connection refused",
            "connection refused: nobody listens there",
        ),
        ("UNAVAILABLE", "recvmsg:Connection reset by peer", "connection reset by the other end"),
        ("UNAVAILABLE", "Socket closed", "it hung up at once: either of the two may lack the run's secret"),
        (
            "UNAVAILABLE",
            "last error: UNKNOWN: Tls handshake failed: SSL_ERROR_SSL: error:100000f7:WRONG_VERSION_NUMBER",
            "it speaks without TLS: it was started without the run's secret",
        ),
        (
            "UNAVAILABLE",
            "last error: Tls handshake failed: CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate",
            "it has no certificate of this run: another run's secret, or none",
        ),
        ("UNAVAILABLE", "DNS resolution failed for nowhere:1", "the name cannot be resolved"),
        ("UNAVAILABLE", "keepalive watchdog timeout", "the other end no longer answers"),
        ("UNIMPLEMENTED", "Method not found!", "what answers there is not a decad peer"),
        ("UNAVAILABLE", "Trying to connect an http1.x server", "what answers there is not a decad peer"),
        ("RESOURCE_EXHAUSTED", "", "the other end takes no more links"),
        (
            "RESOURCE_EXHAUSTED",
            "CLIENT: Received message larger than max (5 vs. 4)",
            "the other end sent a message over the limit",
        ),
        ("OK", "", "the other end closed the link"),
        ("CANCELLED", "", "CANCELLED"),
    ],
)
def test_known_failures(code: str, details: str, words: str) -> None:
    assert plain_reason(code, details) == words


def test_a_write_that_breaks_on_a_living_link_blames_no_stranger() -> None:
    assert plain_reason("INTERNAL", "Failed execute_batch", linked=True) == "the other end is gone"


def test_what_another_machine_wrote_is_short_and_printable() -> None:
    said = plain_reason("ABORTED", "\x1b[31mred\n" * 1000)
    assert said.isprintable()
    assert len(said) < 250
