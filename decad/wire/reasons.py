"""What other machines say, in words fit for people: why a connection failed, what a peer gives as its reason."""

from __future__ import annotations

_OTHER_DOMAIN = ("certificate_verify_failed", "hostname verification")
_WORDS = (
    *(
        (phrase, "it has no certificate of this run: another run's secret, or none")
        for phrase in _OTHER_DOMAIN
    ),
    ("wrong_version_number", "it speaks without TLS: it was started without the run's secret"),
    ("connection refused", "connection refused: nobody listens there"),
    ("connection reset", "connection reset by the other end"),
    ("broken pipe", "connection reset by the other end"),
    ("socket closed", "the other end is gone"),
    ("goaway", "the other end stopped"),
    ("no route to host", "no route to host"),
    ("network is unreachable", "the network is unreachable"),
    ("keepalive", "the other end no longer answers"),
    ("timed out", "no answer"),
    ("dns", "the name cannot be resolved"),
    ("name or service not known", "the name cannot be resolved"),
    ("domain name not found", "the name cannot be resolved"),
    ("larger than max", "the other end sent a message over the limit"),
)
_LONGEST = 200


def plain_reason(code: str, details: str, *, linked: bool = False) -> str:
    """Why a dial failed or, if ``linked``, why an established link ended.

    ``code``: name of the gRPC status; ``details``: its text, which another machine may have written.
    """
    if code == "OK":
        return "the other end closed the link"
    if code == "RESOURCE_EXHAUSTED" and "larger than max" not in details:
        return "the other end takes no more links"
    lowered = details.lower()
    if code == "UNAVAILABLE" and "socket closed" in lowered and not linked:
        return "it hung up at once: either of the two may lack the run's secret"
    for phrase, words in _WORDS:
        if phrase in lowered:
            return words
    if code == "UNAUTHENTICATED":
        return f"it does not let this peer in: {printable(details).rstrip('.')}"
    if code in ("UNIMPLEMENTED", "UNKNOWN", "INTERNAL") or "http" in lowered:
        return "the other end is gone" if linked else "what answers there is not a decad peer"
    shown = printable(details)
    return f"{shown} ({code})" if shown else code


def is_of_another_domain(details: str) -> bool:
    """Whether a dial failed because the other end has no certificate of the trust domain that it was dialled with."""
    lowered = details.lower()
    return any(phrase in lowered for phrase in _OTHER_DOMAIN)


def printable(text: str) -> str:
    """Text of another machine, shortened, without what could move a terminal's cursor."""
    return "".join(c for c in text[:_LONGEST] if c.isprintable())
