"""What a peer may send is bounded, and the protocol's page prints by how much."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decad._proto import peer_pb2 as pb
from decad.core.constants import MAX_STEP
from decad.core.section import Section
from decad.errors import ProtocolError
from decad.wire import messages
from decad.wire.limits import MAX_VERDICTS, MAX_VIEW, RATES, TABLE, Rate, RateMeter

PAGE = Path(__file__).parents[3] / "docs" / "protocol.md"


@pytest.mark.parametrize("step", [MAX_STEP + 1, 2**64 - 1])
def test_a_step_beyond_all_runs_is_refused_wherever_it_is_told(step: int) -> None:
    header = messages.BlockHeader(1, step, 0, 1, 0, True, 1, 1, ((Section.BLOCK, 1),))
    with pytest.raises(ProtocolError, match="no run comes beyond"):
        messages.parse_block(messages.header(header))
    for told in (
        pb.ControlMessage(beacon=pb.Beacon(step=step)),
        pb.ControlMessage(hello=pb.Hello(step=step)),
    ):
        with pytest.raises(ProtocolError, match="no run comes beyond"):
            messages.decode_control(told.SerializeToString())
    donated = pb.FetchMessage(header=pb.FetchHeader(step=step))
    with pytest.raises(ProtocolError, match="no run comes beyond"):
        messages.parse_fetch(donated.SerializeToString())


@pytest.mark.parametrize(
    "told",
    [
        pb.ControlMessage(view=pb.View(members=[pb.View.Member()] * (MAX_VIEW + 1))),
        pb.ControlMessage(verdicts=pb.Verdicts(verdicts=[pb.Verdicts.Verdict()] * (MAX_VERDICTS + 1))),
    ],
    ids=["view", "verdicts"],
)
def test_lists_are_bounded(told: pb.ControlMessage) -> None:
    with pytest.raises(ProtocolError, match="more than"):
        messages.decode_control(told.SerializeToString())


@given(st.floats(0.1, 100), st.integers(1, 100), st.lists(st.floats(0, 10), max_size=300))
def test_a_rate_holds_in_the_long_run(per_s: float, burst: int, gaps: list[float]) -> None:
    meter, now, taken = RateMeter(Rate(per_s, burst), 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        taken += meter.take(now)
    assert taken <= burst + per_s * now + 1e-6
    # Whoever keeps to it is never refused.
    meter = RateMeter(Rate(per_s, burst), 0.0)
    assert all(meter.take(n * 1.01 / per_s) for n in range(1, 200))


def test_the_page_prints_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    missing = [what for what, bound, _ in TABLE if f"| {what} | {bound} |" not in page]
    assert missing == []
    assert RATES.keys() <= {field.name for field in pb.ControlMessage.DESCRIPTOR.fields}
