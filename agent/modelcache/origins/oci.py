"""oci://registry/repository[:tag|@digest]: images with /models (KServe's modelcars), and artifacts.

Artifacts are what ORAS and ModelPack push: a layer for each file, or packed directories. Layers of
images are archives: which files they hold is known when they are unpacked.
"""

from __future__ import annotations

from modelcache.api import SourceURI
from modelcache.errors import BrokenContent, ChecksumMismatch, NotFound
from modelcache.origins.credentials import Secret
from modelcache.origins.network import Network
from modelcache.origins.ocilogins import open_registry
from modelcache.origins.ocimanifests import Index, choose, contents, read_document
from modelcache.origins.protocol import HttpLocation, RemoteFile, Revision

_MAX_INDEXES = 3
"""An index may name others; more than one in another has not been seen."""


class OciOrigin:
    """One image or artifact.

    The login is the secret's (an imagePullSecret, or `username` and `password`), which must be for
    the registry; without a secret that of docker's own configuration, and else nobody's.
    """

    def __init__(
        self,
        uri: SourceURI,
        *,
        secret: Secret | None = None,
        network: Network | None = None,
        machine: str | None = None,
    ) -> None:
        """Make no request yet.

        Args:
            uri: what is wanted.
            secret: has the key `.dockerconfigjson`, or `username` and `password`.
            network: how the world is reached; by default as the environment says.
            machine: the architecture, as uname has it; by default this machine's.

        Raises:
            AuthFailed: the secret has no login for the registry.
        """
        self._uri = uri
        self._machine = machine
        self._client = open_registry(uri, secret=secret, network=network)
        self._given: dict[str, dict[str, str]] = {}
        """The headers of each blob's last location: who asks again had them refused."""

    def resolve(self) -> Revision:
        """What the tag names now, for this node's architecture.

        Returns:
            The revision's id is the digest of the image's own manifest, not of an index.
        """
        what, reference, size = str(self._uri), self._uri.revision, None
        for _ in range(_MAX_INDEXES):
            body, digest, content_type = self._client.manifest(reference)
            if size is not None and len(body) != size:
                raise ChecksumMismatch(f"{what}: the manifest {digest} is not as long as promised")
            document = read_document(body, content_type, what)
            if not isinstance(document, Index):
                files, archives = contents(document, what)
                if not files and not archives:
                    raise NotFound(f"{what} has no layers, and so no files")
                return Revision(id=digest.removeprefix("sha256:"), files=files, archives=archives)
            chosen = choose(document, what, self._machine)
            reference, size = chosen.digest, chosen.size
        raise BrokenContent(f"{what} is an index of indexes of indexes, which is refused")

    def locate(self, file: RemoteFile) -> HttpLocation:
        """The blob. It is verified by its digest, whoever sends it in the end."""
        assert file.sha256 is not None
        url = self._client.blob_url(f"sha256:{file.sha256}")
        headers = self._client.headers(refused=self._given.get(file.sha256))
        self._given[file.sha256] = headers
        return HttpLocation(url, headers=headers, renewable=True)
