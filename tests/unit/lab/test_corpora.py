from __future__ import annotations

import gzip
import struct
from itertools import accumulate
from pathlib import Path

import pytest

from decad.lab.corpora import (
    WINDOWS,
    Corpus,
    bible,
    devil,
    dictionary,
    fortunes,
    html_manual,
    interleaved,
    passages,
    text_of,
)

ENTRIES = """00-database-info
   This is about the dictionary itself and should not be in the text at all.
abbrev

   <text> The first {entry}, which goes on
   over two lines and is long enough.

   Its second paragraph is by somebody <one@example.org>.

   (1999-01-01)
borrowed

   Something that is in the other
   dictionary word by word as well.

   [The Other
   Dictionary]
short
   No.
table
   |----|----|----|----|----|----|----|----|
"""
FIRST = "The first entry, which goes on over two lines and is long enough."
SECOND = "Its second paragraph is by somebody"
BORROWED = "borrowed Something that is in the other dictionary word by word as well."


def compressed(text: str) -> bytes:
    """What follows the magic bytes in a file of compress(1): codes of 9 bits, each a byte while there are few."""
    assert len(text) < 255
    codes = sum(byte << 9 * place for place, byte in enumerate(text.encode("ascii")))
    return codes.to_bytes((9 * len(text) + 7) // 8, "little")


def bible_data(root: Path, windows: list[str]) -> Path:
    """The package's file: header, number of windows, where each begins, magic bytes, windows."""
    packed = [compressed(window) for window in windows]
    first = WINDOWS + 4 * (len(windows) + 2) + 3
    ends = [*accumulate(map(len, packed), initial=first)]
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/bible.data").write_bytes(
        bytes(WINDOWS)
        + struct.pack(f">I{len(ends)}I", len(windows), *ends)
        + b"\x1f\x9d\x90"
        + b"".join(packed)
    )
    return root


def test_of_the_bible_a_chapter_is_a_paragraph(tmp_path: Path) -> None:
    root = bible_data(
        tmp_path,
        [
            "Holy Bible.\nGe1:1 In the beginning God created the heaven.\nGe1:2 And the ea",
            "rth was without form.\nGe2:1 Thus the heavens and the earth were finished.\n",
        ],
    )
    assert list(bible(root)) == [
        "In the beginning God created the heaven. And the earth was without form.",
        "Thus the heavens and the earth were finished.",
    ]


def dictd(root: Path, text: str, name: str = "d") -> Path:
    (root / "usr/share/dictd").mkdir(parents=True)
    with gzip.open(root / f"usr/share/dictd/{name}.dict.dz", "wt") as file:
        file.write(text)
    return root


def test_a_dictionary_begins_at_its_first_entry_and_lines_are_joined(tmp_path: Path) -> None:
    found = list(dictionary("d", "abbrev")(dictd(tmp_path, ENTRIES)))
    assert found == [f"abbrev <text> {FIRST}", f"{SECOND} <one@example.org>.", BORROWED]


def test_of_a_dictionary_noise_and_what_is_borrowed_are_left_out(tmp_path: Path) -> None:
    noise, borrowed = r"<text>\s|\s*<\S+@\S+>", r"Other\s+Dictionary"
    found = list(dictionary("d", "abbrev", noise=noise, borrowed=borrowed)(dictd(tmp_path, ENTRIES)))
    assert found == [f"abbrev {FIRST}", f"{SECOND}."]


def test_in_the_devils_dictionary_blank_lines_divide(tmp_path: Path) -> None:
    text = "intro\n\nABASEMENT, n. A decent and customary\nmental attitude.\n\nIn the presence of wealth or power."
    found = list(devil(dictd(tmp_path, text, "devil")))
    assert found == [
        "ABASEMENT, n. A decent and customary mental attitude.",
        "In the presence of wealth or power.",
    ]


def test_fortunes_are_divided_by_percent_signs_and_lose_bells_and_overstruck_letters(tmp_path: Path) -> None:
    folder = tmp_path / "usr/share/games/fortunes"
    folder.mkdir(parents=True)
    (folder / "wise").write_text(
        "One must s_\bay something,\a\n\tand say it well.\n%\nshort\n%\nAnother one of many sayings.\n"
    )
    (folder / "wise.dat").write_bytes(b"\0" * 40)
    assert list(fortunes(tmp_path)) == ["One must say something, and say it well."]


def test_of_a_manual_the_paragraphs_are_taken(tmp_path: Path) -> None:
    (tmp_path / "m/a").mkdir(parents=True)
    (tmp_path / "m/a/x.html").write_text(
        '<nav>Navigation that nobody wants to read here</nav><p class="topless">The title of the next chapter</p>'
        "<p>A <b>paragraph</b> of text &amp; more text.¶</p>"
        "<pre>code = that(is_not, prose) and goes on and on</pre>"
    )
    assert list(html_manual("m", ["a"])(tmp_path)) == ["A paragraph of text & more text."]


def test_a_domain_ends_before_the_paragraph_that_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decad.lab.corpora.LARGEST", 10)
    assert text_of(Corpus("", "", lambda root: iter(["abcd", "efg", "hijk"])), tmp_path) == "abcd\nefg\n"


def test_a_paragraph_is_taken_once(tmp_path: Path) -> None:
    assert text_of(Corpus("", "", lambda root: iter(["one", "two", "one"])), tmp_path) == "one\ntwo\n"


def test_passages_are_of_forty_to_eighty_words_in_their_order() -> None:
    words = [f"w{i}" for i in range(250)]
    text = "\n".join(" ".join(words[i : i + 7]) for i in range(0, 250, 7))
    found = list(passages(text))
    assert all(40 <= len(passage.split()) <= 80 for passage in found)
    joined = " ".join(found).split()
    assert joined == words[: len(joined)]
    assert len(joined) > 250 - 40


def test_labels_take_turns_and_each_is_gone_through_to_its_end() -> None:
    found = list(interleaved({"a": "12345", "b": "67"}, 2))
    assert found == [("a", "1"), ("b", "6"), ("a", "3"), ("b", "7")]
