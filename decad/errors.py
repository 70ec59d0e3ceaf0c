"""The error tree, split by who must act.

OperatorError  the person at this machine: wrong flag, missing file, port in use
PeerError      another machine: it speaks nonsense, runs something else, sent poison
InternalError  we, the programmers: a promise that the code made to itself was broken

Every message is one paragraph: what happened, to whom, and what to do. The command line prints
it without a traceback (unless ``--debug``) and exits with ``exit_code``; docs/reference/exit-codes.md
lists the codes.
"""

from __future__ import annotations


class DecadError(Exception):
    """Root of every error that decad raises on purpose."""

    exit_code = 1


class OperatorError(DecadError):
    """The person at this machine must act."""

    exit_code = 2


class DivergedError(OperatorError):
    """A gradient is no finite number any more."""


class ConfigError(OperatorError):
    """A setting is unknown, malformed or contradicts another."""

    exit_code = 2


class ModelError(OperatorError):
    """The model directory is missing, unreadable or of a kind that decad does not train."""

    exit_code = 3


class DataError(OperatorError):
    """The training data is missing, empty or unreadable."""

    exit_code = 4


class NetworkError(OperatorError):
    """A port is taken, an interface does not exist, or no given peer can be reached."""

    exit_code = 5


class StateError(OperatorError):
    """The state directory cannot be used: another daemon holds it, it is damaged or not writable."""

    exit_code = 6


class NoDaemonError(OperatorError):
    """No daemon answers for this state directory."""

    exit_code = 7


class PeerError(DecadError):
    """Another peer must act; its link is closed and the run goes on without it."""

    exit_code = 8


class MismatchError(PeerError):
    """Two peers disagree on what they train; both refuse, naming field and values."""


class ProtocolError(PeerError):
    """A peer sent bytes that the protocol does not allow."""


class SealError(ProtocolError):
    """A message changed on its way, was lost, repeated or overtaken: the network's fault rather than the peer's."""


class PoisonError(PeerError):
    """A peer sent a tensor of the wrong size or with values that are not finite."""


class LinkClosed(PeerError):
    """The link to a peer ended while something was still to be sent or received."""


class InternalError(DecadError):
    """A bug in decad."""

    exit_code = 70


def first_cause(error: BaseException) -> BaseException:
    """``error``, or what a group of errors is about: the first of decad's own in it, else the first of all."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [first_cause(inner) for inner in error.exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, DecadError)), leaves[0])


def first_line(error: BaseException) -> str:
    """What a foreign error says, as part of a sentence: its first line without the full stop, else its kind."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
