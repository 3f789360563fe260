"""The webhook's certificate: made here, signed by an authority that signs nothing else.

The authority's key is thrown away as soon as it has signed, so there is none to be stolen: each
certificate comes with an authority of its own. The one before stays in the bundle, as another
replica may still show a certificate of it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_SKEW: Final = timedelta(hours=1)
"""Clocks of two machines differ by less."""

_PEM: Final = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True)
class Certificate:
    """All in PEM.

    Attributes:
        chain: the certificate that is shown.
        key: its private key.
        authorities: who has signed it; and the one before, while that is valid.
    """

    chain: bytes
    key: bytes
    authorities: bytes

    def __repr__(self) -> str:
        return "Certificate(…)"  # a key is not to get into a log


def service_names(service: str, namespace: str) -> tuple[str, ...]:
    """The names by which a Service is called inside its cluster; the API server's first."""
    name = f"{service}.{namespace}.svc"
    return (name, f"{service}.{namespace}", f"{name}.cluster.local")


def make_certificate(
    names: Collection[str],
    lifetime: timedelta,
    *,
    before: bytes = b"",
    now: datetime | None = None,
) -> Certificate:
    """A new certificate for these names (of DNS, or addresses), with a new authority.

    Args:
        names: by which it is called.
        lifetime: from now on.
        before: the authorities of the one that it replaces; what of them can't be read, or is not
            valid any more, is left out.
        now: for tests.
    """
    now = now or datetime.now(UTC)
    serial = x509.random_serial_number()
    # Of its own, so that nobody takes one authority for another of the same name.
    title = _title(f"modelcache-webhook authority {serial % 2**32:08x}")
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_usage = _usage(key_cert_sign=True, crl_sign=True)
    authority_id = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    authority = (
        _builder(title, title, authority_key, serial, now, lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(authority_usage, critical=True)
        .add_extension(authority_id, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    signer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id)
    certificate = (
        _builder(
            _title("modelcache-webhook"), title, key, x509.random_serial_number(), now, lifetime
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(server, critical=False)
        .add_extension(signer, critical=False)
        .add_extension(x509.SubjectAlternativeName([*map(_general, names)]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return Certificate(
        certificate.public_bytes(_PEM),
        key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        authority.public_bytes(_PEM) + _still_valid(before, now),
    )


def fault(
    certificate: Certificate | None, names: Collection[str], now: datetime | None = None
) -> str:
    """Why a certificate has to be replaced; empty when it has not.

    It is replaced when a third of its life is left: there is time for that to fail often.
    """
    now = now or datetime.now(UTC)
    if certificate is None:
        return "there is none"
    try:
        found = x509.load_pem_x509_certificate(certificate.chain)
        key = serialization.load_pem_private_key(certificate.key, None)
        authority = x509.load_pem_x509_certificates(certificate.authorities)[0]
        found.verify_directly_issued_by(authority)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it: it is replaced
        return f"it can't be used: {type(error).__name__}"
    if key.public_key() != found.public_key():
        return "its key is another's"
    if not set(map(_general, names)) <= set(_names(found)):
        return "it is for other names"
    end = min(found.not_valid_after_utc, authority.not_valid_after_utc)
    begin = max(found.not_valid_before_utc, authority.not_valid_before_utc)
    if now < begin:
        return "it is not valid yet"
    if now >= end - (end - begin - _SKEW) / 3:
        return "it ends soon" if now < end else "it has ended"
    return ""


def ends_at(chain: bytes) -> datetime:
    """When a certificate ends.

    Raises:
        ValueError: it is none.
    """
    return x509.load_pem_x509_certificate(chain).not_valid_after_utc


def _still_valid(authorities: bytes, now: datetime) -> bytes:
    try:
        found = x509.load_pem_x509_certificates(authorities)
    except ValueError:
        return b""
    # One is enough: nobody shows a certificate of the one before that.
    return b"".join(each.public_bytes(_PEM) for each in found[:1] if each.not_valid_after_utc > now)


def _title(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    serial: int,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + lifetime)
    )


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return list(found.value)
