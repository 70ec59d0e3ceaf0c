"""Codes and check words that people read to each other: syllables that are hard to mishear.

Five letters, a consonant and a vowel in turn, are 16 bits (proquints: Wilkerson, arXiv 0901.4016).
"""

from __future__ import annotations

import secrets

CODE_BITS = 48
"""Of a code that allows three guesses."""
_CONSONANTS, _VOWELS = "bdfghjklmnprstvz", "aiou"


def new_code() -> str:
    """Three words of five letters, joined by hyphens."""
    return in_syllables(secrets.token_bytes(CODE_BITS // 8))


def in_syllables(data: bytes) -> str:
    """An even number of bytes as words of five letters, joined by hyphens."""
    return "-".join(_word(int.from_bytes(data[at : at + 2], "big")) for at in range(0, len(data), 2))


def typed(code: str) -> str:
    """A code as people type it, in the form that it was shown in: neither case, blanks nor hyphens matter."""
    letters = "".join(code.lower().replace("-", " ").split())
    return "-".join(letters[at : at + 5] for at in range(0, len(letters), 5))


def _word(bits: int) -> str:
    letters = []
    for shift, size, alphabet in (
        (12, 16, _CONSONANTS),
        (10, 4, _VOWELS),
        (6, 16, _CONSONANTS),
        (4, 4, _VOWELS),
        (0, 16, _CONSONANTS),
    ):
        letters.append(alphabet[bits >> shift & size - 1])
    return "".join(letters)
