"""Real text from the packages of Debian: dictionaries, fortunes, documentation; cleaned to paragraphs."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from html.parser import HTMLParser
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

LARGEST = 600_000
"""Characters of one domain: the shortest of them has 380,000."""
PASSAGE_WORDS = (40, 80)
"""Of a passage that is to be classified: at least, and about at most."""


class Corpus(NamedTuple):
    """One domain of text."""

    package: str
    """Of Debian."""
    about: str
    paragraphs: Callable[[Path], Iterator[str]]
    """Root of the unpacked package -> its text."""


def dictionary(name: str, first: str, *, indented: bool = True) -> Callable[[Path], Iterator[str]]:
    """A dictionary of dictd, from the headword ``first`` on; ``indented``: what explains it is."""

    def paragraphs(root: Path) -> Iterator[str]:
        with gzip.open(
            root / f"usr/share/dictd/{name}.dict.dz", "rt", encoding="utf-8", errors="replace"
        ) as file:
            text = file.read()
        text = text[text.index(f"\n{first}") :]
        return _prose(re.split(r"\n(?=\S)|\n\s*\n" if indented else r"\n\s*\n", text))

    return paragraphs


def fortunes(root: Path) -> Iterator[str]:
    """Sayings, each a paragraph; verse and dialogue are joined to one line."""
    for file in sorted((root / "usr/share/games/fortunes").iterdir()):
        if not file.suffix and file.is_file() and file.name not in ("ascii-art", "translate-me"):
            yield from _prose(file.read_text(encoding="utf-8", errors="replace").split("\n%\n"))


def html_manual(folder: str, chapters: Iterable[str]) -> Callable[[Path], Iterator[str]]:
    """The paragraphs of a manual's pages, without code and navigation."""

    def paragraphs(root: Path) -> Iterator[str]:
        for chapter in chapters:
            for file in sorted((root / folder / chapter).glob("*.html")):
                parser = _Paragraphs()
                parser.feed(file.read_text(encoding="utf-8", errors="replace"))
                yield from _prose(parser.found)

    return paragraphs


CORPORA: Mapping[str, Corpus] = {
    "devil": Corpus(
        "dict-devil",
        "Ambrose Bierce, The Devil's Dictionary",
        dictionary("devil", "ABASEMENT", indented=False),
    ),
    "jargon": Corpus("dict-jargon", "The Jargon File", dictionary("jargon", "abbrev")),
    "foldoc": Corpus(
        "dict-foldoc", "Free On-line Dictionary of Computing", dictionary("foldoc", "abduction")
    ),
    "wordnet": Corpus("dict-wn", "WordNet's definitions", dictionary("wn", "aardvark")),
    "fortunes": Corpus("fortunes", "sayings and jokes", fortunes),
    "python": Corpus(
        "python3.11-doc",
        "Python's documentation",
        html_manual("usr/share/doc/python3.11/html", ("tutorial", "howto", "reference", "library")),
    ),
}


def text_of(corpus: Corpus, root: Path) -> str:
    """Its first `LARGEST` characters, a paragraph a line."""
    lines, length = [], 0
    for paragraph in corpus.paragraphs(root):
        if length + len(paragraph) >= LARGEST:
            break
        lines.append(paragraph + "\n")
        length += len(lines[-1])
    return "".join(lines)


def passages(text: str) -> Iterator[str]:
    """Its paragraphs joined and cut to passages of `PASSAGE_WORDS`."""
    least, most = PASSAGE_WORDS
    words: list[str] = []
    for line in text.splitlines():
        words += line.split()
        while len(words) >= least:
            yield " ".join(words[:most])
            words = words[most:]


def interleaved(parts: Mapping[str, Iterable[str]], each: int) -> Iterator[tuple[str, str]]:
    """(name, passage): one of each part after the other, ``each`` of every one."""
    streams = {name: islice(iter(part), each) for name, part in parts.items()}
    for name in islice(cycle(streams), each * len(streams)):
        if (passage := next(streams[name], None)) is not None:
            yield name, passage


def _prose(pieces: Iterable[str]) -> Iterator[str]:
    for piece in pieces:
        line = " ".join(re.sub(r"[{}\b]", "", piece).split())
        letters = sum(char.isalpha() or char == " " for char in line)
        if len(line) >= 30 and letters >= 0.75 * len(line):  # tables and drawings are no prose
            yield line


class _Paragraphs(HTMLParser):
    """The text of <p> elements."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "p":
            self._open = True
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "p":
            self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            self.found[-1] += data.replace("¶", "")
