"""modelcache webhook, and modelcache webhook-certificate: pods are injected as they are created."""

from __future__ import annotations

import signal
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console

from modelcache.cli.options import Output, flag, settings
from modelcache.cli.output import Format, print_json
from modelcache.origins import spare_metadata
from modelcache.service.certificates import make_certificate, service_names
from modelcache.service.certifying import ca_bundle, secret_document
from modelcache.service.logs import configure_logs
from modelcache.service.webhook import Webhook
from modelcache.settings import WebhookSettings

_flag = partial(flag, kind=WebhookSettings)


def webhook(
    kubeconfig: Annotated[Path | None, _flag("kubeconfig", "PATH")] = None,
    namespace: Annotated[str | None, _flag("namespace", "NAME")] = None,
    root: Annotated[Path | None, _flag("root", "DIRECTORY")] = None,
    image: Annotated[str | None, _flag("image", "IMAGE")] = None,
    pod_name: Annotated[str | None, _flag("pod_name", "NAME")] = None,
    pod_security: Annotated[str | None, _flag("pod_security", "LEVEL")] = None,
    compile_port: Annotated[int | None, _flag("compile_port", "PORT")] = None,
    sidecars: Annotated[str | None, _flag("sidecars", "KIND")] = None,
    tls_dir: Annotated[Path | None, _flag("tls_dir", "DIRECTORY")] = None,
    webhook_service: Annotated[str | None, _flag("webhook_service", "NAME")] = None,
    certificate_names: Annotated[str | None, _flag("certificate_names", "NAMES")] = None,
    webhook_configuration: Annotated[str | None, _flag("webhook_configuration", "NAME")] = None,
    certificate_lifetime: Annotated[str | None, _flag("certificate_lifetime", "TIME")] = None,
    drain_seconds: Annotated[float | None, _flag("drain_seconds", "SECONDS")] = None,
    listen: Annotated[str | None, _flag("listen", "ADDRESS")] = None,
    plain_listen: Annotated[str | None, _flag("plain_listen", "ADDRESS")] = None,
    log_format: Annotated[str | None, _flag("log_format", "FORMAT")] = None,
    log_level: Annotated[str | None, _flag("log_level", "LEVEL")] = None,
    output: Output = Format.TABLE,
) -> int:
    """Give pods that ask for models or compile caches what they need, when they are created.

    Runs until told to stop (SIGTERM). The API server calls it; several may run side by side.
    """
    found = settings(
        WebhookSettings,
        kubeconfig=kubeconfig,
        namespace=namespace,
        root=root,
        image=image,
        pod_name=pod_name,
        pod_security=pod_security,
        compile_port=compile_port,
        sidecars=sidecars,
        tls_dir=tls_dir,
        webhook_service=webhook_service,
        certificate_names=certificate_names,
        webhook_configuration=webhook_configuration,
        certificate_lifetime=certificate_lifetime,
        drain_seconds=drain_seconds,
        listen=listen,
        plain_listen=plain_listen,
        log_format=log_format,
        log_level=log_level,
    )
    people = found.log_format == "console" or (
        found.log_format == "auto" and Console(stderr=True).is_terminal
    )
    configure_logs(as_json=not people, level=found.log_level)
    spare_metadata()
    daemon = Webhook(found)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stop())
    daemon.run()
    if output is Format.JSON:
        print_json("WebhookResult", {})
    return 0


def webhook_certificate(
    webhook_service: Annotated[str | None, _flag("webhook_service", "NAME")] = None,
    namespace: Annotated[str | None, _flag("namespace", "NAME")] = None,
    certificate_names: Annotated[str | None, _flag("certificate_names", "NAMES")] = None,
    certificate_lifetime: Annotated[str | None, _flag("certificate_lifetime", "TIME")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Print a certificate for the webhook: a Secret, and the caBundle for its configuration.

    For those who let no program write Secrets: mounted, the Secret is what --tls-dir reads. Nobody
    renews it. Nothing is asked of a cluster. The output holds a private key.
    """
    found = settings(
        WebhookSettings,
        webhook_service=webhook_service,
        namespace=namespace,
        certificate_names=certificate_names,
        certificate_lifetime=certificate_lifetime,
    )
    made = make_certificate(
        (*service_names(found.webhook_service, found.namespace), *found.certificate_names),
        timedelta(seconds=found.certificate_lifetime),
    )
    secret, bundle = secret_document(made, found.namespace), ca_bundle(made)
    if output is Format.JSON:
        print_json("WebhookCertificate", {"secret": secret, "caBundle": bundle})
        return
    typer.echo(yaml.safe_dump(secret, sort_keys=False), nl=False)
    print(f"# clientConfig of the MutatingWebhookConfiguration:\n# caBundle: {bundle}")
