from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tiny import save_byte_tokenizer
from transformers import AutoTokenizer

CHATML = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One token a byte, with a chat template that marks nothing."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save_byte_tokenizer(folder)
    made = AutoTokenizer.from_pretrained(folder)
    made.chat_template = CHATML
    return made


@pytest.fixture
def fresh_tokenizer(tokenizer: Any) -> Any:
    """One that may be changed."""
    made = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    made.chat_template = CHATML
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"
