"""Which network interfaces multicast DNS speaks on, and at which addresses this peer says it can be
reached."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import psutil

from decad.errors import NetworkError

INNER = (
    "docker",
    "br-",
    "veth",
    "virbr",
    "cni",
    "flannel",
    "cali",
    "podman",
    "lxc",
    "lxd",
    "vmnet",
    "vboxnet",
)
"""Beginnings of the names of bridges to containers and virtual machines of this host: other machines cannot
reach their addresses, so they are used only if the operator names them."""


class Interface(NamedTuple):
    """An interface that is switched on and has an address; its cable may be out."""

    name: str
    addresses: tuple[str, ...]
    """IPv4 first. Of IPv6 those that mean the same on every interface: not the link-local ones."""
    multicast: bool


class Choice(NamedTuple):
    """``interfaces``: own addresses on which multicast DNS speaks; ``advertised``: those told to others."""

    interfaces: tuple[str, ...]
    advertised: tuple[str, ...]


def present_interfaces() -> list[Interface]:
    """The machine's interfaces that are switched on and have an address, loopback included."""
    states = psutil.net_if_stats()
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        four = [a.address for a in addresses if a.family == socket.AF_INET]
        six = [a.address for a in addresses if a.family == socket.AF_INET6 and not _is_link_local(a.address)]
        numbers = (*four, *six)
        if not numbers or name not in states:
            continue
        # `isup` asks for a carrier as well: a machine may start before its network does. Where the system
        # tells
        # no flags, assume the best: the socket will say no.
        flags = states[name].flags.split(",") if states[name].flags else ["up", "multicast"]
        if "up" in flags:
            found.append(Interface(name, numbers, "multicast" in flags))
    return found


def choose_interfaces(interface: str, listen_host: str, present: Sequence[Interface]) -> Choice:
    """Where to announce and look for peers.

    ``interface``: an address or name that the operator gave, or empty; ``listen_host``: where links are
    accepted, an address or ``localhost``. Empty takes those that match ``listen_host``: loopback for
    loopback, one address for one address, and for all addresses every interface that leads out of the
    machine. Raises NetworkError, with the interfaces there are, when nothing matches or others could not
    reach what would be announced.
    """
    host = ipaddress.ip_address("127.0.0.1" if listen_host == "localhost" else listen_host)
    if interface:
        chosen = _named(interface, present)
    elif host.is_loopback:
        chosen = (str(host),)
    elif host.is_unspecified:
        chosen = tuple(a for i in present if _leads_out(i) for a in i.addresses)
    else:
        chosen = _named(str(host), present)
    if host.is_unspecified and host.version == 4:  # links are accepted there alone
        chosen = tuple(address for address in chosen if ":" not in address)
    if not chosen:
        how = "IPv4 multicast" if host.version == 4 else "multicast"
        raise NetworkError(
            f"mDNS unavailable: no interface leads out of this machine by {how}. Name one with --interface, or use "
            f"--peers. {_listed(present)}"
        )
    if host.is_loopback and not all(ipaddress.ip_address(a).is_loopback for a in chosen):
        raise NetworkError(
            f"mDNS unavailable: --interface {interface} leads to other machines, but --listen {listen_host} "
            "accepts links from this one only. Listen on 0.0.0.0 or on that interface's address."
        )
    return Choice(chosen, chosen if host.is_unspecified else (str(host),))


def _named(interface: str, present: Sequence[Interface]) -> tuple[str, ...]:
    by_name: Mapping[str, tuple[str, ...]] = {i.name: i.addresses for i in present}
    if interface in by_name:
        return by_name[interface]
    if any(interface in addresses for addresses in by_name.values()) or _is_loopback(interface):
        return (interface,)
    raise NetworkError(
        f"mDNS unavailable: this machine has no interface or address {interface!r}. {_listed(present)}"
    )


def _leads_out(interface: Interface) -> bool:
    loopback = all(_is_loopback(address) for address in interface.addresses)
    return interface.multicast and not loopback and not interface.name.startswith(INNER)


def index_of(address: str) -> int:
    """The system's number of the interface that has this address. Raises OSError when none has it."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.address.partition("%")[0] == address for a in addresses):
            return socket.if_nametoindex(name)
    raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))


def _is_link_local(text: str) -> bool:
    return ipaddress.ip_address(text.partition("%")[0]).is_link_local


def _is_loopback(text: str) -> bool:
    try:
        # All of 127.0.0.0/8 answers, though the interface lists one address of it.
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def _listed(present: Sequence[Interface]) -> str:
    there = ", ".join(f"{i.name} ({', '.join(i.addresses)})" for i in present)
    return f"There are: {there or 'none with an address'}."
