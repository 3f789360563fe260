"""Has a certificate for the webhook, and has the API server trust it.

The replicas share one Secret: whoever finds it without a good certificate makes one, and a conflict
tells it that another was first. Then the API server is told of the new authority, and only some
seconds later the certificate is shown; the authority before is told too, for replicas that have not
noticed yet.
"""

from __future__ import annotations

import base64
import binascii
import random
from collections.abc import Callable, Collection
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog

from modelcache.cluster.client import Client, Object, Patch, Resource
from modelcache.cluster.failures import Failures
from modelcache.errors import ClusterError
from modelcache.service.certificates import Certificate, fault, make_certificate

log = structlog.get_logger(__name__)

SECRET: Final = "modelcache-webhook-tls"  # noqa: S105 - its name

SECRETS: Final = Resource("", "v1", "secrets", namespaced=True)
CONFIGURATIONS: Final = Resource(
    "admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations"
)

_LOOK_SECONDS: Final = 60.0
_MISSING_SECONDS: Final = 3.0
_FILES_SECONDS: Final = 5.0
_CONFLICT_SECONDS: Final = 0.5
_SETTLE_SECONDS: Final = 2.0

Show = Callable[[bytes, bytes], None]
"""Show a certificate, with its key, to whoever connects from now on. Raises ValueError for one that
can't be used."""


class OwnCertificate:
    """Keeps the certificate in a Secret of ours."""

    def __init__(
        self,
        client: Client,
        show: Show,
        *,
        namespace: str,
        names: Collection[str],
        lifetime: timedelta,
        configuration: str,
    ) -> None:
        """Nothing is asked yet.

        Args:
            client: may get and update the Secret, and get and patch the configuration.
            show: called with each new certificate.
            namespace: of the Secret.
            names: by which the webhook is called.
            lifetime: of a certificate.
            configuration: the MutatingWebhookConfiguration whose `caBundle` is to be right.
        """
        self._client = client
        self._show = show
        self._namespace = namespace
        self._names = tuple(names)
        self._lifetime = lifetime
        self._configuration = configuration
        self._shown: Certificate | None = None
        self._trusted: Certificate | None = None
        self._failures = Failures("webhook.certificate")
        self._missing_told = False

    def cycle(self) -> float:
        """Look once; seconds until the next look is due."""
        configuration, trouble = None, None
        try:
            # First: where another replica changes both meanwhile, what is patched is refused.
            configuration = self._find_configuration()
        except ClusterError as error:
            trouble = error
        try:
            certificate = self._certificate()
            if certificate is not None and self._shown is None:
                # Better one that is not trusted yet than none.
                self._take(certificate)
            if trouble is not None:
                raise trouble
            if certificate is None or not self._have_trusted(configuration, certificate):
                return random.uniform(0.1, 1.0) * _CONFLICT_SECONDS  # noqa: S311 - no secret
            if certificate not in (self._shown, self._trusted):
                # What is written now, API servers know in a moment.
                self._trusted = certificate
                return _SETTLE_SECONDS
            self._take(certificate)
        except ClusterError as error:
            return self._failures.failed(error)
        self._failures.settled()
        # It may be applied right after us, and until it has our authorities nobody calls.
        most = _LOOK_SECONDS if configuration else _MISSING_SECONDS
        most = min(most, self._lifetime.total_seconds() / 20)
        return most * random.uniform(0.8, 1.2)  # noqa: S311 - no secret

    def _certificate(self) -> Certificate | None:
        """The good one that all replicas share; None: another has just changed it."""
        try:
            secret = self._client.get(SECRETS, SECRET, self._namespace)
        except ClusterError as error:
            if error.status != 404:
                raise
            secret = {}
        found = _read(secret)
        wrong = fault(found, self._names)
        if not wrong:
            return found
        before = found.authorities if found else b""
        made = make_certificate(self._names, self._lifetime, before=before)
        try:
            self._write(secret, made)
        except ClusterError as error:
            if error.status == 409:
                return None
            raise
        log.info("webhook.certificate.made", because=wrong, names=list(self._names))
        return made

    def _write(self, secret: Object, made: Certificate) -> None:
        if secret:
            # At its resourceVersion: who comes second is refused.
            data = {**(secret.get("data") or {}), **_data(made)}
            self._client.replace(SECRETS, {**secret, "data": data}, self._namespace)
        else:
            self._client.create(SECRETS, secret_document(made, self._namespace), self._namespace)

    def _find_configuration(self) -> Object | None:
        try:
            found = self._client.get(CONFIGURATIONS, self._configuration)
        except ClusterError as error:
            if error.status != 404:
                raise
            if not self._missing_told:
                log.warning("webhook.configuration.missing", name=self._configuration)
            self._missing_told = True
            return None
        self._missing_told = False
        return found

    def _have_trusted(self, configuration: Object | None, certificate: Certificate) -> bool:
        """Write our authorities into the configuration where others are there. False: another has
        just changed it."""
        bundle = ca_bundle(certificate)
        wrong = [
            {"name": webhook["name"], "clientConfig": {"caBundle": bundle}}
            for webhook in (configuration or {}).get("webhooks") or ()
            if webhook["clientConfig"].get("caBundle") != bundle
        ]
        if configuration is None or not wrong:
            return True
        version = configuration["metadata"]["resourceVersion"]
        patch: Object = {"metadata": {"resourceVersion": version}, "webhooks": wrong}
        try:
            self._client.patch(CONFIGURATIONS, self._configuration, patch, Patch.STRATEGIC)
        except ClusterError as error:
            if error.status == 409:
                return False
            raise
        log.info("webhook.configuration.patched", name=self._configuration)
        return True

    def _take(self, certificate: Certificate) -> None:
        if certificate != self._shown:
            self._show(certificate.chain, certificate.key)
            self._shown = certificate


class CertificateFiles:
    """Shows what lies in a directory as `tls.crt` and `tls.key`, as cert-manager has it mounted."""

    def __init__(self, folder: Path, show: Show) -> None:
        self._folder = folder
        self._show = show
        self._shown: tuple[bytes, bytes] | None = None
        self._refused: tuple[bytes, bytes] | None = None
        self._unreadable = ""

    def cycle(self) -> float:
        """Look once; seconds until the next look is due."""
        try:
            found = self._read()
            self._unreadable = ""
            if found not in (self._shown, self._refused):
                self._show(*found)
                self._shown, self._refused = found, None
                log.info("webhook.certificate.loaded", folder=str(self._folder))
        except OSError as error:
            if str(error) != self._unreadable:
                log.warning("webhook.certificate.unreadable", message=str(error))
            self._unreadable = str(error)
        except ValueError as error:
            # Half of it may be new; the next look sees all. What was shown is shown on.
            self._refused = found
            log.warning("webhook.certificate.refused", message=str(error))
        return _FILES_SECONDS if self._shown else 1.0

    def _read(self) -> tuple[bytes, bytes]:
        return (self._folder / "tls.crt").read_bytes(), (self._folder / "tls.key").read_bytes()


def secret_document(certificate: Certificate, namespace: str) -> Object:
    """The Secret with a certificate."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": SECRET,
            "namespace": namespace,
            "labels": {
                "app.kubernetes.io/name": "modelcache",
                "app.kubernetes.io/component": "webhook",
            },
        },
        "type": "Opaque",
        "data": _data(certificate),
    }


def ca_bundle(certificate: Certificate) -> str:
    """What the API server is to trust, as a configuration has it."""
    return base64.b64encode(certificate.authorities).decode()


def _data(certificate: Certificate) -> dict[str, str]:
    content = {
        "tls.crt": certificate.chain,
        "tls.key": certificate.key,
        "ca.crt": certificate.authorities,
    }
    return {name: base64.b64encode(value).decode() for name, value in content.items()}


def _read(secret: Object) -> Certificate | None:
    data = secret.get("data") or {}
    try:
        parts = [
            base64.b64decode(data[name], validate=True) for name in ("tls.crt", "tls.key", "ca.crt")
        ]
    except (KeyError, binascii.Error):
        return None
    return Certificate(*parts)
