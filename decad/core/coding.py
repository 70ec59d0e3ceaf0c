"""How tensors travel: plain fp32, or the changes of block and adapters in bf16 with error feedback.

Every neighbour of a peer gets the same bytes, and what those bytes decode to is the peer's *public* copy. The
sender mixes with its own public copy too, so coding errors cancel and the network average is kept (docs/theory.md,
"Encodings" and T1). What a code rounds away stays in theta_half - public and travels with the next message.

One encoder a phase; one decoder a neighbour and phase. Payloads are in the machine's byte order, which is
little-endian wherever decad runs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from decad.core.layout import cut
from decad.core.memory import bytes_of
from decad.core.pieces import pieces
from decad.core.section import Section
from decad.errors import ConfigError, PoisonError, ProtocolError

CHUNK_ELEMENTS = {"fp32": 262_144, "bf16-delta": 524_288}
"""Elements of one chunk by encoding: 1 MiB messages; a full resend of bf16-delta has 2 MiB."""

CHANGING = frozenset({Section.BLOCK, Section.ADAPTERS})
"""Sections of which bf16-delta sends changes to a public copy."""


def is_narrow(section: Section, sizes: Mapping[Section, int]) -> bool:
    """Whether bf16-delta sends a section in bf16: parameters and moments as long as the block, but no row means."""
    return section in CHANGING or sizes[section] == sizes[Section.BLOCK]


NO_BOUND: Mapping[Section, float] = MappingProxyType({})
NOTHING: Mapping[Section, Tensor] = MappingProxyType({})

with warnings.catch_warnings():
    # torch warns once a process that it cannot keep us from writing to a message's bytes; decoders only read.
    warnings.simplefilter("ignore")
    torch.frombuffer(b"\0", dtype=torch.uint8)


class Encoder(Protocol):
    """The sender's side of one phase."""

    chunk_elements: int
    full_only: bool
    """Every message holds values, never changes; ``full`` makes no difference."""
    sequence: int
    """Number of the last `encode` in this phase, from 0; -1 before the first. Set it to resume a phase."""

    @property
    def public(self) -> Mapping[Section, Tensor]:
        """What the neighbours decode from the last message: fp32, or bf16 for moments that travel so."""
        ...

    def encode(self, values: Mapping[Section, Tensor]) -> None:
        """Take in theta_half (BLOCK) and the moment rule's outgoing values; fp32 vectors, only read.

        Nothing is copied that travels as it is: `public` and payloads may be views of ``values``.
        """
        ...

    def payload(self, section: Section, chunk: int, full: bool) -> memoryview:
        """Bytes of one chunk, a view where the tensor is on the host; stale after the next `encode`.

        ``full``: the public copy in fp32, for a receiver that missed a message.
        """
        ...


class Decoder(Protocol):
    """The receiver's side, for one neighbour and one phase; on the host, so it checks for NaN and inf."""

    chunk_elements: int

    def begin(self, sequence: int, full: bool) -> bool:
        """Start a message. False: a gap; its chunks cannot be decoded: drop them and ask for a full one."""
        ...

    def decode(self, section: Section, chunk: int, payload: bytes | memoryview) -> Tensor:
        """The neighbour's public values of one chunk, fp32 on the host; to be read, before the next message.

        Raises PoisonError (wrong size, values not finite, a negative second moment) and ProtocolError (a
        chunk that does not exist or was already there). After either, only a full message is accepted.
        """
        ...

    def end(self) -> None:
        """The message is over; one that never ends leaves a gap. ProtocolError if chunks are missing."""
        ...


def encoder(encoding: str, public: Mapping[Section, Tensor] = NOTHING) -> Encoder:
    """An encoder for one phase.

    To resume within a phase give the saved public copies of `CHANGING` sections as ``public``, fp32 [n] on the host,
    and set ``sequence``. Raises ConfigError for an encoding that it does not know.
    """
    if encoding == "fp32":
        return Fp32Encoder()
    if encoding == "bf16-delta":
        return Bf16DeltaEncoder(public)
    raise _unknown(encoding)


def decoder(
    encoding: str, sizes: Mapping[Section, int], beyond: Mapping[Section, float] = NO_BOUND
) -> Decoder:
    """A decoder for one neighbour and phase.

    ``sizes``: elements of each section of a message, BLOCK included; ``beyond``: by section, the value that is refused
    if it is exceeded. Raises ConfigError for an encoding that it does not know.
    """
    if encoding == "fp32":
        return Fp32Decoder(sizes, beyond)
    if encoding == "bf16-delta":
        return Bf16DeltaDecoder(sizes, beyond)
    raise _unknown(encoding)


class Fp32Encoder:
    """The values themselves: public is theta_half, without a copy."""

    def __init__(self) -> None:
        self.chunk_elements = CHUNK_ELEMENTS["fp32"]
        self.full_only = True
        self.sequence = -1
        self.public: Mapping[Section, Tensor] = {}

    def encode(self, values: Mapping[Section, Tensor]) -> None:
        self.public = dict(values)
        self.sequence += 1

    def payload(self, section: Section, chunk: int, full: bool) -> memoryview:
        return bytes_of(_chunk_of(self.public[section], chunk, self.chunk_elements))


class Bf16DeltaEncoder:
    """Block and adapters as bf16 changes to their public copies; moments as long as the block in bf16; the rest fp32.

    The public copies begin as the first values, which travel whole (docs/adr/0010).
    """

    def __init__(self, public: Mapping[Section, Tensor]) -> None:
        self.chunk_elements = CHUNK_ELEMENTS["bf16-delta"]
        self.full_only = False
        self.sequence = -1
        self.public: dict[Section, Tensor] = {}
        self._changes: dict[Section, Tensor] = {}
        for section, values in public.items():
            self._begin(section, values)

    def _begin(self, section: Section, public: Tensor) -> None:
        self.public[section] = public.detach().clone()
        self._changes[section] = torch.zeros_like(public, dtype=torch.bfloat16)

    @torch.no_grad()
    def encode(self, values: Mapping[Section, Tensor]) -> None:
        sizes = {section: tensor.numel() for section, tensor in values.items()}
        for section, tensor in values.items():
            if section in CHANGING:
                self._change(section, tensor)
            elif not is_narrow(section, sizes):
                self.public[section] = tensor
            elif section in self.public:
                self.public[section].copy_(tensor)
            else:
                self.public[section] = tensor.to(torch.bfloat16)
        self.sequence += 1

    def _change(self, section: Section, values: Tensor) -> None:
        if section not in self.public:
            self._begin(section, values)
        public, changes = self.public[section], self._changes[section]
        for piece in pieces(public.numel()):
            change = changes[piece].copy_(values[piece] - public[piece])
            public[piece].add_(change)

    def payload(self, section: Section, chunk: int, full: bool) -> memoryview:
        source = self._changes if section in CHANGING and not full else self.public
        values = _chunk_of(source[section], chunk, self.chunk_elements)
        return bytes_of(values.float() if full else values)


class Fp32Decoder:
    """Values are what they are: no state, no gaps."""

    def __init__(self, sizes: Mapping[Section, int], beyond: Mapping[Section, float] = NO_BOUND) -> None:
        self.chunk_elements = CHUNK_ELEMENTS["fp32"]
        self._beyond = beyond
        self._due = _Due(sizes, self.chunk_elements)

    def begin(self, sequence: int, full: bool) -> bool:
        self._due.open()
        return True

    def decode(self, section: Section, chunk: int, payload: bytes | memoryview) -> Tensor:
        return _sound(section, chunk, self._due.take(section, chunk, payload, torch.float32), self._beyond)

    def end(self) -> None:
        self._due.close()


class Bf16DeltaDecoder:
    """Keeps the neighbour's public copies of block and adapters, bit for bit, by adding up their changes."""

    def __init__(self, sizes: Mapping[Section, int], beyond: Mapping[Section, float] = NO_BOUND) -> None:
        self.chunk_elements = CHUNK_ELEMENTS["bf16-delta"]
        self._beyond = beyond
        self._sizes = sizes
        self._due = _Due(sizes, self.chunk_elements)
        self._whole = False
        """Every message that was begun has ended: `public` is the neighbour's copy at `sequence`."""
        self.sequence = -1
        self.public = {section: torch.empty(sizes[section]) for section in CHANGING & sizes.keys()}

    def begin(self, sequence: int, full: bool) -> bool:
        if not full and not (self._whole and sequence == self.sequence + 1):
            return False
        self._due.open()
        self._whole = False
        self.sequence = sequence
        self._full = full
        return True

    @torch.no_grad()
    def decode(self, section: Section, chunk: int, payload: bytes | memoryview) -> Tensor:
        narrow = not self._full and is_narrow(section, self._sizes)
        values = self._due.take(section, chunk, payload, torch.bfloat16 if narrow else torch.float32)
        if section not in CHANGING:
            return _sound(section, chunk, values.float(), self._beyond)
        public = _chunk_of(self.public[section], chunk, self.chunk_elements)
        # Looked at after the addition: finite changes can add up to infinity.
        return _sound(
            section, chunk, public.copy_(values) if self._full else public.add_(values), self._beyond
        )

    def end(self) -> None:
        self._due.close()
        self._whole = True


class _Due:
    """Which chunks of the current message are still to come, and how many bytes each must have."""

    def __init__(self, sizes: Mapping[Section, int], chunk_elements: int) -> None:
        self._elements = {
            (section, chunk): stop - start for section, chunk, start, stop in cut(sizes, chunk_elements)
        }
        self._missing: set[tuple[Section, int]] = set()

    def open(self) -> None:
        self._missing = set(self._elements)

    def take(self, section: Section, chunk: int, payload: bytes | memoryview, dtype: torch.dtype) -> Tensor:
        """View the payload as values [elements of the chunk]."""
        if (section, chunk) not in self._missing:
            raise ProtocolError(f"chunk {chunk} of section {section.name} is not due in this message.")
        due = self._elements[section, chunk] * dtype.itemsize
        if len(payload) != due:
            raise PoisonError(
                f"chunk {chunk} of section {section.name} has {len(payload)} bytes, {due} were due."
            )
        self._missing.remove((section, chunk))
        return torch.frombuffer(payload, dtype=dtype)

    def close(self) -> None:
        if self._missing:
            raise ProtocolError(f"the message ended with {len(self._missing)} chunks missing.")


def _chunk_of(values: Tensor, chunk: int, chunk_elements: int) -> Tensor:
    return values[chunk * chunk_elements : (chunk + 1) * chunk_elements]


def _sound(section: Section, chunk: int, values: Tensor, beyond: Mapping[Section, float]) -> Tensor:
    """The values, once they are known to be finite, not absurd and, for a second moment, not negative."""
    low, high = (float(bound) for bound in torch.aminmax(values))
    if not math.isfinite(low) or not math.isfinite(high):
        raise PoisonError(f"chunk {chunk} of section {section.name} has values that are not finite.")
    if (largest := max(-low, high)) > beyond.get(section, math.inf):
        raise PoisonError(
            f"chunk {chunk} of section {section.name} has values up to {largest:.3g}, where no more than "
            f"{beyond[section]:.3g} makes sense."
        )
    if section is Section.SECOND and low < 0:
        raise PoisonError(f"chunk {chunk} of section {section.name} has a negative second moment.")
    return values


def _unknown(encoding: str) -> ConfigError:
    return ConfigError(f"encoding {encoding!r} is not known. Use one of {', '.join(CHUNK_ELEMENTS)}.")
