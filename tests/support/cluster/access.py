"""How tests speak to an API server: as kubectl, as any user, or in plain HTTP."""

from __future__ import annotations

import json
import math
import secrets
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support.cluster.binaries import Binaries
from tests.support.cluster.certificates import Authority
from tests.support.cluster.waiting import eventually

Object = dict[str, Any]


class Access:
    """Access to an API server whose certificate, and those of its users, an authority of ours
    signs; the administrator has a token, which passes a proxy too."""

    def __init__(self, url: str, folder: Path, binaries: Binaries, authority: Authority) -> None:
        self.url = url
        self.folder = folder
        self.binaries = binaries
        self._authority = authority
        self.admin_token = secrets.token_urlsafe()
        self.kubeconfig = self.write_kubeconfig(folder / "admin.kubeconfig", self.admin_token)
        self._context = ssl.create_default_context(cafile=str(self.ca))

    @property
    def ca(self) -> Path:
        """What vouches for the API server."""
        return self._authority.certificate

    # As somebody

    def kubeconfig_for(self, user: str, groups: Iterable[str] = ()) -> Path:
        """A kubeconfig for any user in any groups, by a certificate: nothing has to be there."""
        pair = self._authority.client(user, groups)
        credential = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
        return self._write(self.folder / f"{pair.key.stem}.kubeconfig", credential)

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a real token of a ServiceAccount (TokenRequest)."""
        answer = self.api(
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
            "POST",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
        )
        path = self.folder / f"{namespace}-{name}.kubeconfig"
        return self.write_kubeconfig(path, answer["status"]["token"])

    def write_kubeconfig(self, path: Path, token: str) -> Path:
        """A kubeconfig with a token."""
        return self._write(path, {"token": token})

    # As an administrator

    def kubectl(
        self,
        *arguments: str | Path,
        stdin: str | None = None,
        check: bool = True,
        kubeconfig: Path | None = None,
    ) -> str:
        """What a command of kubectl prints; fails with what it says where it fails."""
        access = ("--kubeconfig", str(kubeconfig or self.kubeconfig))
        done = subprocess.run(
            [self.binaries["kubectl"], *access, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            # It keeps what it has discovered in its home.
            env={"HOME": str(self.folder), "PATH": "/usr/bin:/bin"},
        )
        assert not check or done.returncode == 0, f"kubectl {arguments}: {done.stderr}"
        return done.stdout + ("" if check else done.stderr)

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """`kubectl apply` of some objects."""
        together = {"apiVersion": "v1", "kind": "List", "items": documents}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(together))

    def open(
        self,
        path: str,
        method: str = "GET",
        body: Any = None,
        kind: str = "json",
        timeout: float = 30.0,
    ) -> Any:
        """An answer as it comes: a watch, say. `timeout`: seconds in which something has to."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.admin_token}",
                "Content-Type": f"application/{kind}",
            },
        )
        return urllib.request.urlopen(request, timeout=timeout, context=self._context)

    def read(self, path: str, method: str = "GET", body: Any = None, kind: str = "json") -> Any:
        """An answer's body: text, or what its JSON says."""
        with self.open(path, method, body, kind) as answer:
            text = answer.read().decode()
            is_json = answer.headers.get_content_type() == "application/json"
        return json.loads(text) if is_json else text

    def api(self, path: str, method: str = "GET", body: Any = None, kind: str = "json") -> Object:
        """An object; for a patch `kind` is `merge-patch+json` or another."""
        found: Object = self.read(path, method, body, kind)
        return found

    def find(self, path: str) -> Object | None:
        """An object; None where there is none."""
        try:
            return self.api(path)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            error.close()
            return None

    # Waiting

    def eventually_there(self, path: str, timeout: float = 30.0) -> Object:
        """An object, as soon as it is there."""
        found = eventually(lambda: self.find(path), timeout=timeout, what=path)
        assert found is not None
        return found

    def watch_until(
        self, path: str, is_it: Callable[[list[Object]], object], timeout: float = 30.0
    ) -> list[Object]:
        """Watch a list until it is so, and return it then.

        `path` may select: `/api/v1/nodes?fieldSelector=metadata.name=n1` is one node.
        """
        deadline = time.monotonic() + timeout
        while True:
            answer = self.api(path)
            items = {item["metadata"]["uid"]: item for item in answer["items"]}
            if is_it(found := [*items.values()]):
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"{path} did not come to it in {timeout:g} s; last: {found}")
            version = answer["metadata"]["resourceVersion"]
            # The server ends it then, however much there is to tell.
            query = f"watch=1&resourceVersion={version}&timeoutSeconds={math.ceil(left)}"
            with self.open(f"{path}{'&' if '?' in path else '?'}{query}", timeout=left + 5) as news:
                for line in news:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        break  # the version is too old: from the start
                    items[event["object"]["metadata"]["uid"]] = event["object"]
                    if event["type"] == "DELETED":
                        del items[event["object"]["metadata"]["uid"]]
                    if is_it(found := [*items.values()]):
                        return found

    def _write(self, path: Path, credential: Mapping[str, str]) -> Path:
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {"server": self.url, "certificate-authority": str(self.ca)},
                }
            ],
            "users": [{"name": "user", "user": dict(credential)}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
            "current-context": "test",
        }
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(document))
        return temporary.rename(path)
