from __future__ import annotations

import pytest

from decad.errors import NetworkError
from decad.membership.interfaces import Choice, Interface, choose_interfaces, present_interfaces

LAPTOP = [
    Interface("lo", ("127.0.0.1",), False),
    Interface("wlan0", ("192.168.1.5",), True),
    Interface("eth0", ("10.0.0.5", "10.0.0.6"), True),
    Interface("docker0", ("172.17.0.1",), True),
    Interface("br-0a1b2c", ("172.18.0.1",), True),
    Interface("veth12ab", ("169.254.3.3",), True),
    Interface("tun0", ("10.8.0.2",), False),
]
LAN = ("192.168.1.5", "10.0.0.5", "10.0.0.6")
SIX = [Interface("eth0", ("fd00::5",), True), Interface("wlan0", ("192.168.1.5", "fd00::6"), True)]


@pytest.mark.parametrize(
    ("interface", "listen", "expected"),
    [
        pytest.param("", "127.0.0.1", Choice(("127.0.0.1",), ("127.0.0.1",)), id="loopback"),
        pytest.param("", "127.0.0.9", Choice(("127.0.0.9",), ("127.0.0.9",)), id="another loopback"),
        pytest.param("", "localhost", Choice(("127.0.0.1",), ("127.0.0.1",)), id="localhost"),
        pytest.param("", "192.168.1.5", Choice(("192.168.1.5",), ("192.168.1.5",)), id="one address"),
        pytest.param("", "0.0.0.0", Choice(LAN, LAN), id="all that lead out, no bridges to containers"),
        pytest.param("", "::", Choice(LAN, LAN), id="both families"),
        pytest.param("wlan0", "0.0.0.0", Choice(("192.168.1.5",), ("192.168.1.5",)), id="by name"),
        pytest.param("10.0.0.6", "0.0.0.0", Choice(("10.0.0.6",), ("10.0.0.6",)), id="by address"),
        pytest.param("docker0", "0.0.0.0", Choice(("172.17.0.1",), ("172.17.0.1",)), id="a bridge if named"),
        pytest.param("lo", "0.0.0.0", Choice(("127.0.0.1",), ("127.0.0.1",)), id="loopback if named"),
        pytest.param(
            "wlan0", "10.0.0.5", Choice(("192.168.1.5",), ("10.0.0.5",)), id="announce one on another"
        ),
    ],
)
def test_choice(interface: str, listen: str, expected: Choice) -> None:
    assert choose_interfaces(interface, listen, LAPTOP) == expected


@pytest.mark.parametrize(
    ("interface", "listen", "message"),
    [
        pytest.param(
            "wlan9", "0.0.0.0", r"'wlan9'.*wlan0 \(192.168.1.5\)", id="unknown name lists what there is"
        ),
        pytest.param("10.9.9.9", "0.0.0.0", "'10.9.9.9'", id="unknown address"),
        pytest.param("", "10.9.9.9", "'10.9.9.9'", id="listening where there is no interface"),
        pytest.param("eth0", "127.0.0.1", "from this one only", id="others could not reach it"),
        pytest.param("", "fd00::9", "'fd00::9'", id="listening where there is no such address"),
    ],
)
def test_refusals(interface: str, listen: str, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        choose_interfaces(interface, listen, LAPTOP)


@pytest.mark.parametrize(
    ("listen", "chosen"),
    [
        ("::", ("fd00::5", "192.168.1.5", "fd00::6")),
        ("0.0.0.0", ("192.168.1.5",)),  # links are accepted over IPv4 alone
        ("fd00::5", ("fd00::5",)),
        ("::1", ("::1",)),
    ],
)
def test_addresses_are_of_the_kinds_at_which_links_are_accepted(listen: str, chosen: tuple[str, ...]) -> None:
    assert choose_interfaces("", listen, SIX) == Choice(chosen, chosen)


def test_machine_without_a_way_out_is_told_so() -> None:
    with pytest.raises(NetworkError, match="--peers"):
        choose_interfaces("", "0.0.0.0", [i for i in LAPTOP if i.name in ("lo", "docker0", "tun0")])


def test_this_machine_has_loopback() -> None:
    assert "127.0.0.1" in {address for i in present_interfaces() for address in i.addresses}
