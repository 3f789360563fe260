"""When the webhook's certificate is good, and when it has to be replaced."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from modelcache.service.certificates import (
    Certificate,
    ends_at,
    fault,
    make_certificate,
    service_names,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
NAMES = ("webhook.ns.svc", "127.0.0.1")


def made(before: bytes = b"", now: datetime = NOW) -> Certificate:
    return make_certificate(NAMES, 90 * DAY, before=before, now=now)


def authorities(certificate: Certificate) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(certificate.authorities)


def test_the_names_of_a_service_begin_with_the_one_that_the_api_server_calls() -> None:
    assert service_names("hook", "ns")[0] == "hook.ns.svc"


def test_a_new_one_is_good_until_a_third_of_its_life_is_left() -> None:
    found = made()
    assert fault(found, NAMES, NOW) == ""
    assert fault(found, NAMES, NOW + 59 * DAY) == ""
    assert fault(found, NAMES, NOW + 61 * DAY) == "it ends soon"
    assert fault(found, NAMES, NOW + 91 * DAY) == "it has ended"
    assert ends_at(found.chain) == NOW + 90 * DAY


def test_a_clock_that_is_behind_takes_it_too() -> None:
    assert fault(made(), NAMES, NOW - timedelta(minutes=59)) == ""
    assert fault(made(), NAMES, NOW - timedelta(minutes=61)) == "it is not valid yet"


def test_one_for_fewer_names_is_replaced_and_one_for_more_is_not() -> None:
    assert fault(made(), (*NAMES, "other.svc"), NOW) == "it is for other names"
    assert fault(made(), NAMES[:1], NOW) == ""


def test_none_and_rubbish_are_replaced() -> None:
    good = made()
    assert fault(None, NAMES, NOW) == "there is none"
    for part in ("chain", "key", "authorities"):
        broken = dataclasses.replace(good, **{part: b"rubbish"})
        assert fault(broken, NAMES, NOW).startswith("it can't be used")


def test_parts_of_two_are_replaced() -> None:
    one, other = made(), made()
    assert fault(dataclasses.replace(one, key=other.key), NAMES, NOW) == "its key is another's"
    mixed = dataclasses.replace(one, authorities=other.authorities)
    assert fault(mixed, NAMES, NOW).startswith("it can't be used")


def test_the_authority_before_is_trusted_while_it_is_valid_but_no_older_one() -> None:
    first = made()
    second = made(first.authorities, NOW + 60 * DAY)
    assert authorities(second)[1:] == authorities(first)
    third = made(second.authorities, NOW + 120 * DAY)
    assert authorities(third)[1:] == authorities(second)[:1]
    late = made(first.authorities, NOW + 91 * DAY)
    assert len(authorities(late)) == 1


def test_authorities_that_cant_be_read_are_left_out() -> None:
    assert len(authorities(made(b"rubbish"))) == 1


def test_an_authority_signs_servers_certificates_only() -> None:
    (authority,) = authorities(made())
    basic = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    server = x509.load_pem_x509_certificate(made().chain)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_key_gets_into_no_log() -> None:
    assert "PRIVATE" not in repr(made())
    assert "PRIVATE" not in str(made())


@pytest.mark.parametrize("seconds", [30, 300])
def test_a_short_life_has_its_third_too(seconds: int) -> None:
    found = make_certificate(NAMES, timedelta(seconds=seconds), now=NOW)
    assert fault(found, NAMES, NOW + timedelta(seconds=seconds * 0.6)) == ""
    assert fault(found, NAMES, NOW + timedelta(seconds=seconds * 0.7)) == "it ends soon"
