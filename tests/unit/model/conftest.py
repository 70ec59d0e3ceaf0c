from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny import make_tiny_llama

from decad.core.batch import Batch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tied_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with tied embeddings; only to be read."""
    return make_tiny_llama(tmp_path_factory.mktemp("tied"))


@pytest.fixture(scope="session")
def untied_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a head of its own; only to be read."""
    return make_tiny_llama(tmp_path_factory.mktemp("untied"), tied=False)


@pytest.fixture(params=["tied", "untied"])
def any_dir(request: pytest.FixtureRequest, tied_dir: Path, untied_dir: Path) -> Path:
    return tied_dir if request.param == "tied" else untied_dir


@pytest.fixture
def tokens() -> torch.Tensor:
    """Token ids, int64 [3, 12]."""
    return torch.randint(0, 256, (3, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def batch(tokens: torch.Tensor) -> Batch:
    """Each of ``tokens`` is to be predicted but for the first of each sequence."""
    return Batch.next_token(tokens)
