from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from decad.lab.corpora import Corpus, dictionary, fortunes, html_manual, interleaved, passages, text_of

ENTRIES = """00-database-info
   This is about the dictionary itself and should not be in the text at all.
abbrev
   <text> The first {entry}, which goes on
   over two lines and is long enough.

   (1999-01-01)
short
   No.
table
   |----|----|----|----|----|----|----|----|
"""


def dictd(root: Path, text: str) -> Path:
    (root / "usr/share/dictd").mkdir(parents=True)
    with gzip.open(root / "usr/share/dictd/d.dict.dz", "wt") as file:
        file.write(text)
    return root


def test_a_dictionary_begins_at_its_first_entry_and_lines_are_joined(tmp_path: Path) -> None:
    found = list(dictionary("d", "abbrev")(dictd(tmp_path, ENTRIES)))
    assert found == ["abbrev <text> The first entry, which goes on over two lines and is long enough."]


def test_in_an_unindented_dictionary_blank_lines_divide(tmp_path: Path) -> None:
    text = "intro\n\nABASEMENT, n. A decent and customary\nmental attitude.\n\nIn the presence of wealth or power."
    found = list(dictionary("d", "ABASEMENT", indented=False)(dictd(tmp_path, text)))
    assert found == [
        "ABASEMENT, n. A decent and customary mental attitude.",
        "In the presence of wealth or power.",
    ]


def test_fortunes_are_divided_by_percent_signs(tmp_path: Path) -> None:
    folder = tmp_path / "usr/share/games/fortunes"
    folder.mkdir(parents=True)
    (folder / "wise").write_text(
        "One must say something,\n\tand say it well.\n%\nshort\n%\nAnother one of many sayings.\n"
    )
    (folder / "wise.dat").write_bytes(b"\0" * 40)
    assert list(fortunes(tmp_path)) == ["One must say something, and say it well."]


def test_of_a_manual_the_paragraphs_are_taken(tmp_path: Path) -> None:
    (tmp_path / "m/a").mkdir(parents=True)
    (tmp_path / "m/a/x.html").write_text(
        "<nav>Navigation that nobody wants to read here</nav><p>A <b>paragraph</b> of text &amp; more text.¶</p>"
        "<pre>code = that(is_not, prose) and goes on and on</pre>"
    )
    assert list(html_manual("m", ["a"])(tmp_path)) == ["A paragraph of text & more text."]


def test_a_domain_ends_before_the_paragraph_that_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decad.lab.corpora.LARGEST", 10)
    assert text_of(Corpus("", "", lambda root: iter(["abcd", "efg", "hijk"])), tmp_path) == "abcd\nefg\n"


def test_passages_are_of_forty_to_eighty_words_in_their_order() -> None:
    words = [f"w{i}" for i in range(250)]
    text = "\n".join(" ".join(words[i : i + 7]) for i in range(0, 250, 7))
    found = list(passages(text))
    assert all(40 <= len(passage.split()) <= 80 for passage in found)
    joined = " ".join(found).split()
    assert joined == words[: len(joined)]
    assert len(joined) > 250 - 40


def test_labels_take_turns() -> None:
    assert list(interleaved({"a": "123", "b": "45"}, 2)) == [("a", "1"), ("b", "4"), ("a", "2"), ("b", "5")]
