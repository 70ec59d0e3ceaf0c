"""Text files as people have them: UTF-8, or UTF-16 and UTF-32 with the mark by which they are told apart."""

from __future__ import annotations

import codecs
from codecs import getincrementaldecoder
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, Literal

PIECE = 1 << 20
"""Bytes read at once, and characters handed to the tokenizer: it returns Python lists, at some 36 bytes a token."""

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def encoding_of(path: Path) -> str:
    """By the byte order mark (Unicode, section 23.8); UTF-8 where there is none."""
    with path.open("rb") as file:
        begin = file.read(4)
    return next((name for mark, name in _MARKS if begin.startswith(mark)), "utf-8-sig")


def text_of(
    raw: BinaryIO, encoding: str, newline: Literal["", "\n"], *, spoilt: bool = False
) -> TextIOWrapper:
    """``raw`` as text. ``spoilt``: bytes that are no character are kept, to be found by `is_spoilt`."""
    errors = "strict" if not spoilt else "surrogateescape" if encoding == "utf-8-sig" else "replace"
    return TextIOWrapper(raw, encoding=encoding, errors=errors, newline=newline)


def is_spoilt(text: str) -> bool:
    """Whether there are bytes in it that were no character."""
    return not text.isascii() and any("\udc80" <= char <= "\udcff" or char == "\ufffd" for char in text)


def why_not_text(path: Path, encoding: str) -> str:
    """What stands in the way of reading the whole file as text, as a clause; empty if nothing does."""
    name = "UTF-8" if encoding == "utf-8-sig" else encoding.upper()
    decoder, done = getincrementaldecoder(encoding)(), 0
    with path.open("rb") as file:
        while True:
            chunk, held = file.read(PIECE), len(decoder.getstate()[0])
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                where, byte = done - held + error.start, error.object[error.start]
                return (
                    f"it is not {name} text: byte {where} (0x{byte:02x}) fits no character. If it is text, save it as "
                    "UTF-8 with the program that wrote it"
                )
            if "\0" in text:
                return (
                    "it is not text: it has zero bytes, so it is binary, or UTF-16 without a byte order mark"
                )
            if not chunk:
                return ""
            done += len(chunk)
