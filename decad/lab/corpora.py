"""Real text from the packages of Debian: dictionaries, fortunes, documentation; cleaned to paragraphs."""

from __future__ import annotations

import gzip
import re
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html.parser import HTMLParser
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple

LARGEST = 600_000
"""Characters of one domain: the shortest of them has 350,000."""
PASSAGE_WORDS = (40, 80)
"""Of a passage that is to be classified: at least, and about at most."""
WINDOWS = 0x58
"""Where bible.data has the number of its windows, then where each begins and the last one ends: uint32, big-endian."""


class Corpus(NamedTuple):
    """One domain of text."""

    package: str
    """Of Debian."""
    about: str
    paragraphs: Callable[[Path], Iterator[str]]
    """Root of the unpacked package -> its text."""


def bible(root: Path) -> Iterator[str]:
    """A chapter a paragraph, without the numbers of the verses."""
    data = (root / "usr/lib/bible.data").read_bytes()
    (count,) = struct.unpack_from(">I", data, WINDOWS)
    ends = struct.unpack_from(f">{count + 1}I", data, WINDOWS + 4)
    # Each window is a file of compress(1), whose first bytes stand once, before the first of them. gzip reads it too.
    magic = data[ends[0] - 3 : ends[0]]
    windows = [
        subprocess.run(["gzip", "-dc"], input=magic + data[start:end], stdout=subprocess.PIPE, check=True)
        for start, end in pairwise(ends)
    ]
    _title, *verses = b"".join(window.stdout for window in windows).decode("ascii").splitlines()
    for _, chapter in groupby(verses, lambda verse: verse.partition(":")[0]):
        yield from _prose([" ".join(verse.partition(" ")[2] for verse in chapter)])


def dictionary(
    name: str, first: str, *, noise: str = r"(?!)", borrowed: str = r"(?!)"
) -> Callable[[Path], Iterator[str]]:
    """A dictionary of dictd whose explanations are indented, from the headword ``first`` on.

    The headword begins its first paragraph. ``noise``: pattern of what is left out of an entry; ``borrowed``: of what
    tells that an entry is another domain's.
    """

    def paragraphs(root: Path) -> Iterator[str]:
        for entry in re.split(r"\n(?=\S)", _dictd(root, name, first)):
            if not re.search(borrowed, entry):
                head, *rest = re.split(r"\n\s*\n", re.sub(noise, "", entry))
                yield from _prose([" ".join([head, *rest[:1]]), *rest[1:]])

    return paragraphs


def devil(root: Path) -> Iterator[str]:
    """Bierce's dictionary indents verse alone: blank lines divide; verse is joined to one line."""
    return _prose(re.split(r"\n\s*\n", _dictd(root, "devil", "ABASEMENT")))


def fortunes(root: Path) -> Iterator[str]:
    """Sayings, each a paragraph; verse and dialogue are joined to one line."""
    for file in sorted((root / "usr/share/games/fortunes").iterdir()):
        if not file.suffix and file.is_file() and file.name not in ("ascii-art", "translate-me"):
            yield from _prose(file.read_text(encoding="utf-8", errors="replace").split("\n%\n"))


def html_manual(folder: str, chapters: Iterable[str]) -> Callable[[Path], Iterator[str]]:
    """The paragraphs of a manual's pages by Sphinx, without code and navigation."""

    def paragraphs(root: Path) -> Iterator[str]:
        for chapter in chapters:
            for file in sorted((root / folder / chapter).glob("*.html")):
                parser = _Paragraphs()
                parser.feed(file.read_text(encoding="utf-8", errors="replace"))
                yield from _prose(parser.found)

    return paragraphs


CORPORA: Mapping[str, Corpus] = {
    "bible": Corpus("bible-kjv-text", "the King James Bible", bible),
    "devil": Corpus("dict-devil", "Ambrose Bierce, The Devil's Dictionary", devil),
    "jargon": Corpus("dict-jargon", "The Jargon File", dictionary("jargon", "abbrev")),
    "foldoc": Corpus(
        "dict-foldoc",
        "Free On-line Dictionary of Computing, but for what it has from The Jargon File",
        # Subjects, such as <logic>, and addresses of people.
        dictionary("foldoc", "abduction", noise=r"<[\w\s,/-]+>\s|\s*<\S+@\S+>", borrowed=r"Jargon\s+File"),
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
    """Its first `LARGEST` characters, a paragraph a line, each paragraph once."""
    lines: dict[str, None] = {}
    length = 0
    for paragraph in corpus.paragraphs(root):
        line = paragraph + "\n"
        if line in lines:
            continue
        if length + len(line) > LARGEST:
            break
        lines[line] = None
        length += len(line)
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


def interleaved(parts: Mapping[str, Sequence[str]], each: int) -> Iterator[tuple[str, str]]:
    """(name, passage): one of each part after the other, ``each`` of every one, evenly from all of it."""
    for place in range(each):
        for name, part in parts.items():
            yield name, part[place * len(part) // each]


def _dictd(root: Path, name: str, first: str) -> str:
    """A dictionary's text from the headword ``first`` on: notices and entries of signs and digits stand before it."""
    file = root / f"usr/share/dictd/{name}.dict.dz"
    with gzip.open(file, "rt", encoding="utf-8", errors="replace") as opened:
        text = opened.read()
    return text[text.index(f"\n{first}") + 1 :]


def _prose(pieces: Iterable[str]) -> Iterator[str]:
    for piece in pieces:
        # Overstruck letters, marks of cross references, bells.
        line = " ".join(re.sub(r".\x08|[{}\x00-\x08\x0e-\x1f\x7f]", "", piece).split())
        letters = sum(char.isalpha() or char == " " for char in line)
        if len(line) >= 30 and letters >= 0.75 * len(line):  # tables and drawings are no prose
            yield line


class _Paragraphs(HTMLParser):
    """The text of <p> elements, but for links to the pages before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "p" and ("class", "topless") not in attrs:
            self._open = True
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "p":
            self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            self.found[-1] += data.replace("¶", "")
