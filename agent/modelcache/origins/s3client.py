"""A connection to one bucket of Amazon S3, or of what speaks its language (AWS_ENDPOINT_URL_S3)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ProxyConnectionError
from botocore.session import get_session

from modelcache.api import SourceURI
from modelcache.errors import ModelCacheError, OriginChanged, OriginUnavailable, UsageError
from modelcache.origins.credentials import Secret
from modelcache.origins.network import Network
from modelcache.origins.s3errors import READ, from_client_error, from_sdk_error
from modelcache.origins.s3session import S3Session

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

ATTEMPTS: Final = 3
"""How often boto3 sends a request that meets a server error; the agent itself tries again later."""

_Style = Literal["path", "virtual"]
_TIMEOUT = (10, 30)
"""Seconds: for a connection, and for the next piece of an answer."""
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")


class S3Bucket:
    """One bucket, and who asks it. Safe for threads.

    Credentials are the secret's, which must name the endpoint's host, or those of boto3's default
    chain (environment, profile, pod identity, instance).
    """

    def __init__(
        self,
        uri: SourceURI,
        *,
        secret: Secret | None = None,
        network: Network | None = None,
        needed: str = READ,
    ) -> None:
        """Make no request yet. `needed`: the permissions, for the message when there are none."""
        self._uri = uri
        self._bucket = uri.authority
        self._secret = secret
        self._network = network or Network()
        self._needed = needed
        self._opening = Lock()
        self._client: S3Client | None = None
        self._endpoint = ""

    @property
    def host(self) -> str:
        """The host that is asked; empty as long as it was not asked for anything."""
        return urlsplit(self._endpoint).netloc

    def client(self) -> S3Client:
        """boto3's client, made when first asked for.

        Raises:
            AuthFailed: the secret may not be sent to the endpoint.
        """
        with self._opening:
            if self._client is None:
                session = self._session()
                # Virtual, not auto: that presigns for the global endpoint, which only redirects
                # for buckets of the newer regions. A dot in the name fits no certificate of AWS.
                ca_file = self._network.ca_file
                style: _Style = "path" if "." in self._bucket else "virtual"
                client = _connect(session, style, ca_file)
                if style == "virtual" and not is_aws(client.meta.endpoint_url):
                    # Few S3-compatible servers have a wildcard in their DNS name and certificate.
                    style = "path"
                    client = _connect(session, style, ca_file)
                scheme, _, place = client.meta.endpoint_url.partition("://")
                bucket = f"{self._bucket}." if style == "virtual" else ""
                self._endpoint = f"{scheme}://{bucket}{place}"
                if self._network.has_proxies:
                    client = _connect(session, style, ca_file, self._proxies())
                if self._secret is not None:
                    self._secret.require(client.meta.endpoint_url)
                self._client = client
            return self._client

    def _proxies(self) -> dict[str, str]:
        """botocore's own reading of NO_PROXY knows suffixes only, no networks."""
        proxy = self._network.proxy(self._endpoint)
        return {urlsplit(self._endpoint).scheme: proxy.url} if proxy else {}

    def _session(self) -> Session:
        core = get_session()
        # Not by the client's `verify`: STS, whom credentials may come from, is asked as well.
        core.set_config_variable("ca_bundle", self._network.ca_file)
        if self._secret is None:
            return Session(botocore_session=core)
        return Session(
            botocore_session=core,
            aws_access_key_id=self._secret.need("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=self._secret.need("AWS_SECRET_ACCESS_KEY"),
            aws_session_token=self._secret.get("AWS_SESSION_TOKEN"),
            region_name=self._secret.get("AWS_REGION"),
        )

    def _refused_by_proxy(self, error: ProxyConnectionError) -> ModelCacheError:
        """botocore's message has not even the status; urllib3's, below it, has."""
        text = str(error.__cause__ or error.__context__)
        refusal = self._network.refusal(self._endpoint, text)
        return refusal or from_sdk_error(error, str(self._uri))

    @contextmanager
    def asking(self, changed: str | None = None) -> Iterator[None]:
        """A context for boto3's requests: their errors come out as ours.

        Args:
            changed: what it means that an object is not there, or has another ETag, if that is a
                change of what was resolved.
        """
        try:
            yield
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if changed is not None and status in (404, 412):
                raise OriginChanged(changed) from error
            raise from_client_error(error, str(self._uri), self._needed) from error
        except ProxyConnectionError as error:
            raise self._refused_by_proxy(error) from error
        except BotoCoreError as error:
            raise from_sdk_error(error, str(self._uri)) from error
        except KeyError as error:
            raise OriginUnavailable(f"{self._uri}: the answer lacks {error}") from error
        except (AttributeError, TypeError, ValueError, OverflowError, RuntimeError) as error:
            # botocore takes answers apart unchecked; the last two are what dates end in.
            raise OriginUnavailable(
                f"{self._uri}: the answer is not S3's: check AWS_ENDPOINT_URL_S3"
            ) from error


def _connect(
    session: Session, style: _Style, ca_file: str, proxies: dict[str, str] | None = None
) -> S3Client:
    config = Config(
        # botocore still presigns with SigV2 by default in the oldest regions.
        signature_version="s3v4",
        connect_timeout=_TIMEOUT[0],
        read_timeout=_TIMEOUT[1],
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        s3={"addressing_style": style},
        proxies=proxies,
    )
    # botocore 1.44 reads AWS_DEFAULT_REGION only; all other AWS SDKs read AWS_REGION.
    region = session.region_name or os.environ.get("AWS_REGION")
    try:
        client: S3Client = session.client("s3", region_name=region, config=config)
        sends = S3Session(
            verify=ca_file,
            proxies=proxies,
            timeout=_TIMEOUT,
        )
        client.meta.events.register("before-send.s3", sends.answer)
    except BotoCoreError:
        raise
    except ValueError as error:
        # The one thing that botocore says this way.
        raise UsageError(f"AWS_ENDPOINT_URL_S3 or AWS_REGION is wrong: {error}") from error
    return client


def is_aws(endpoint: str) -> bool:
    """Whether an endpoint is Amazon's own."""
    return (urlsplit(endpoint).hostname or "").endswith(_AWS_HOSTS)
