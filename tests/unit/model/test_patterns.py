from __future__ import annotations

import pytest

from decad.model.patterns import chosen, matches


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("model.layers.1", "model.layers.1.mlp.weight", True),
        ("model.layers.1", "model.layers.10.mlp.weight", False),
        ("model.layers.1?", "model.layers.10.mlp.weight", True),
        ("model.layers.2-9", "model.layers.10.mlp.weight", False),
        ("model.layers.2-10", "model.layers.10.mlp.weight", True),
        ("layers.1", "model.layers.1.mlp.weight", False),
        ("model.*.1", "model.layers.1.mlp.weight", True),
        ("**.bias", "model.layers.1.mlp.bias", True),
        ("**.bias", "model.bias_free.weight", False),
        ("**.mlp", "model.layers.1.mlp.weight", True),
        ("model.layers.1.mlp.weight.more", "model.layers.1.mlp.weight", False),
    ],
)
def test_components_are_matched_from_the_first(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


def test_the_order_of_the_names_is_kept() -> None:
    assert chosen("*", ["b", "a"]) == ["b", "a"]
