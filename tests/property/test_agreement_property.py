"""Both ends of a link conclude from the same two specs, each for itself; their answers must fit together."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from decad.config import RunSpec
from decad.membership.agreement import Adopt, Keep, Refuse, agree, parse_spec

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "run": st.sampled_from(["default", "demo"]),
    "model_hash": st.sampled_from(["m"] * 5 + ["n"]),
    "plan_hash": st.sampled_from(["p"] * 5 + ["q"]),
    "seed": st.integers(0, 2),
    "lr": st.sampled_from([0.0, -0.0, 1e-4, 3e-4]),
    "moments": st.sampled_from(["rowwise", "none"]),
}
ENDS = st.tuples(
    st.builds(lambda values: RunSpec(**values), st.fixed_dictionaries({}, optional=FIELDS)),
    st.frozensets(st.sampled_from(sorted(RunSpec.model_fields))),
    st.booleans(),
)
IDS = st.tuples(st.text("01", min_size=4, max_size=4), st.text("01", min_size=4, max_size=4)).filter(
    lambda ids: ids[0] != ids[1]
)
Ends = tuple[RunSpec, frozenset[str], bool]


@given(ENDS, ENDS, IDS)
def test_answers_of_both_ends_fit_together(a: Ends, b: Ends, ids: tuple[str, str]) -> None:
    of_a = agree(*a, ids[0], *b, ids[1])
    of_b = agree(*b, ids[1], *a, ids[0])
    assert (isinstance(of_a, Refuse)) == (isinstance(of_b, Refuse)), "one refuses, the other does not"
    assert not (isinstance(of_a, Adopt) and isinstance(of_b, Adopt)), "they would change places"
    if isinstance(of_a, Refuse) and isinstance(of_b, Refuse):
        assert [(f.field, f.mine, f.theirs) for f in of_a.fields] == [
            (f.field, f.theirs, f.mine) for f in of_b.fields
        ]
    elif isinstance(of_a, Adopt) or isinstance(of_b, Adopt):
        adopted, kept = (of_a, b[0]) if isinstance(of_a, Adopt) else (of_b, a[0])
        assert isinstance(adopted, Adopt)
        assert adopted.spec.fingerprint == kept.fingerprint
        assert adopted.set_fields == a[1] | b[1]
    else:
        assert a[0].fingerprint == b[0].fingerprint, "both keep what differs"


@given(ENDS, ENDS, IDS)
def test_once_agreed_they_agree_again(a: Ends, b: Ends, ids: tuple[str, str]) -> None:
    verdict = agree(*a, ids[0], *b, ids[1])
    if isinstance(verdict, Adopt):
        again = agree(verdict.spec, verdict.set_fields, False, ids[0], *b, ids[1])
        assert again == Keep()


@given(ENDS)
def test_every_spec_survives_the_journey(end: Ends) -> None:
    assert parse_spec(end[0].canonical()).fingerprint == end[0].fingerprint
