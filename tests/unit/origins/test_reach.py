"""How far inside an address is."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelcache.errors import OriginUnavailable
from modelcache.origins.reach import ANYWHERE, Inside, Reach, reach_of


@pytest.mark.parametrize(
    ("host", "reach"),
    [
        ("huggingface.co", Reach.INTERNET),
        ("8.8.8.8", Reach.INTERNET),
        ("[2600::1]", Reach.INTERNET),
        ("64:ff9b::8.8.8.8", Reach.INTERNET),
        ("::ffff:8.8.8.8", Reach.INTERNET),
        ("10.255.0.1", Reach.PRIVATE),
        ("172.16.0.1", Reach.PRIVATE),
        ("192.168.1.1", Reach.PRIVATE),
        ("100.64.0.1", Reach.PRIVATE),
        ("198.18.0.1", Reach.PRIVATE),
        ("192.0.2.1", Reach.PRIVATE),
        ("fd00::1", Reach.PRIVATE),
        ("fec0::1", Reach.PRIVATE),
        ("2001:db8::1", Reach.PRIVATE),
        ("64:ff9b::10.0.0.1", Reach.PRIVATE),
        ("2002:0a00:0001::1", Reach.PRIVATE),
        ("::10.0.0.1", Reach.PRIVATE),
        ("localhost", Reach.MACHINE),
        ("Model.LocalHost.", Reach.MACHINE),
        ("127.0.0.53", Reach.MACHINE),
        ("127.1", Reach.MACHINE),
        ("0x7f.1", Reach.MACHINE),
        ("[::1]", Reach.MACHINE),
        ("::ffff:127.0.0.1", Reach.MACHINE),
        ("0.0.0.0", Reach.LINK),
        ("0", Reach.LINK),
        ("::", Reach.LINK),
        ("169.254.169.254", Reach.LINK),
        ("2852039166", Reach.LINK),
        ("64:ff9b::169.254.169.254", Reach.LINK),
        ("fe80::1%eth0", Reach.LINK),
        ("fd00:ec2::254", Reach.LINK),
        ("fd00:0ec2:0:0::254", Reach.LINK),
        ("168.63.129.16", Reach.LINK),
        ("100.100.100.200", Reach.LINK),
        ("metadata.google.internal", Reach.LINK),
        ("Metadata.Google.Internal.", Reach.LINK),
        ("224.0.0.1", Reach.LINK),
        ("ff02::1", Reach.LINK),
        ("255.255.255.255", Reach.LINK),
        ("", Reach.INTERNET),
    ],
)
def test_each_address_has_its_place(host: str, reach: Reach) -> None:
    assert reach_of(host) is reach


@given(st.ip_addresses(v=4))
def test_no_disguise_brings_an_address_further_out(address: ipaddress.IPv4Address) -> None:
    plain = reach_of(str(address))
    number = int(address)
    for disguise in (
        f"::ffff:{address}",
        f"[::FFFF:{address}]",
        f"64:ff9b::{address}",
        str(number) if number > 0xFFFFFF else str(address),
        ".".join(f"0x{part:x}" for part in address.packed),
        ".".join(f"0{part:o}" for part in address.packed),
    ):
        assert reach_of(disguise) >= plain, disguise
    if address.is_private or address.is_loopback:
        assert plain > Reach.INTERNET


@given(st.text(max_size=40))
@example("1" * 5000)
@example("0x" + "f" * 5000)
@example("1.2.3.4.5")
def test_any_name_has_one(name: str) -> None:
    assert reach_of(name) in Reach


@given(st.ip_addresses().map(str), st.sampled_from(Reach), st.sampled_from(Reach))
def test_what_may_be_reached_grows(address: str, nearer: Reach, farther: Reach) -> None:
    nearer, farther = min(nearer, farther), max(nearer, farther)
    inside = Inside()
    try:
        inside.check("host.example", address, nearer)
    except OriginUnavailable:
        assert reach_of(address) > nearer
    else:
        inside.check("host.example", address, farther)
    inside.check("host.example", address, ANYWHERE)


def test_what_a_proxy_is_asked_for_is_judged_by_its_name() -> None:
    inside = Inside(["cdn.example"])
    inside.check("other.example", None, Reach.INTERNET)
    inside.check("CDN.example.", "10.0.0.1", Reach.INTERNET)
    for host in ("10.0.0.1", "localhost", "metadata.google.internal"):
        with pytest.raises(OriginUnavailable, match="--private-redirects"):
            inside.check(host, None, Reach.INTERNET)
