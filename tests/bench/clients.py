"""Who fetches: our command, and what a user would pick instead, each in a process of its own.

The others come from `.venv-bench` (`requirements.txt` here) and Debian; who is not there is left
out, and the table says so.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.serving import BUCKET, Case, Origin
from tests.support.agent import COMMAND

BENCH = Path(__file__).parents[2] / ".venv-bench" / "bin"
KEY = "AKIABENCHBENCHBENCH0"
SECRET = "no-secret-but-a-benchmark"
CONNECTIONS = 8

_BOTO = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
url, prefix, count, folder, tuned = sys.argv[1:6]
pool = 8 if int(count) > 1 else 1
config = TransferConfig(preferred_transfer_client="classic")
if tuned == "tuned":
    config = TransferConfig(
        preferred_transfer_client="classic", multipart_chunksize=32 << 20, max_concurrency=16,
        io_chunksize=1 << 20, max_io_queue=200,
    )
elif tuned == "crt":
    config = TransferConfig(preferred_transfer_client="crt")
# The CRT takes TLS and trust from these two, not from the URL and the environment.
client = boto3.client("s3", endpoint_url=url, use_ssl=url.startswith("https:"),
                      verify=os.environ["AWS_CA_BUNDLE"], config=Config(max_pool_connections=64))
keys = [f["Key"] for f in client.list_objects_v2(Bucket="models", Prefix=prefix)["Contents"]]
def fetch(key):
    client.download_file("models", key, os.path.join(folder, os.path.basename(key)), Config=config)
with ThreadPoolExecutor(pool) as threads:
    list(threads.map(fetch, keys))
"""
_OBSTORE = """
import asyncio, os, sys
from obstore.store import S3Store
url, prefix, folder, ca = sys.argv[1:5]
store = S3Store("models", endpoint=url, region="us-east-1", virtual_hosted_style_request=False,
                client_options={"allow_http": True, "allow_invalid_certificates": bool(ca)})
CHUNK = 8 << 20
async def main():
    listed = [m async for page in store.list(prefix) for m in page]
    limit = asyncio.Semaphore(8)
    async def part(path, fd, start, end):
        async with limit:
            data = await store.get_range_async(path, start=start, end=end)
            await asyncio.to_thread(os.pwrite, fd, data, start)
    jobs, fds = [], []
    for m in listed:
        fd = os.open(os.path.join(folder, os.path.basename(m["path"])), os.O_CREAT | os.O_RDWR)
        fds.append(fd)
        jobs += [part(m["path"], fd, at, min(at + CHUNK, m["size"]))
                 for at in range(0, m["size"], CHUNK)]
    await asyncio.gather(*jobs)
    for fd in fds:
        os.close(fd)
asyncio.run(main())
"""
_GOOGLE = """
import os, sys
from google.cloud.storage import Client, transfer_manager
prefix, count, folder = sys.argv[1:4]
client = Client.create_anonymous_client()
bucket = client.bucket("models")
names = [blob.name for blob in client.list_blobs(bucket, prefix=prefix)]
if count == "1":
    blob = bucket.get_blob(names[0])
    path = os.path.join(folder, os.path.basename(names[0]))
    transfer_manager.download_chunks_concurrently(blob, path, max_workers=8)
else:
    found = transfer_manager.download_many_to_path(
        bucket, names, destination_directory=folder, max_workers=8, raise_exception=True)
"""
_HUB = """
import sys
from huggingface_hub import snapshot_download
snapshot_download(sys.argv[1], revision=sys.argv[2], cache_dir=sys.argv[3])
"""


@dataclass(frozen=True)
class Client:
    """One way to fetch a case.

    Attributes:
        name: as a user would say it.
        command: what to run, by case, origin's URL, the origin, and the folder to fill.
        durable: whether what it leaves is synced to the disk; else a `sync -f` is added.
        group: clients of one protocol are compared with ours of that protocol.
        needs: the programs that it is made of.
        plain: whether it can do without TLS (boto3 never tells the CRT to).
    """

    name: str
    command: Callable[[Case, str, Origin, Path], list[str | Path]]
    group: str
    durable: bool = False
    needs: tuple[str | Path, ...] = ()
    plain: bool = True

    @property
    def there(self) -> bool:
        """Whether it can be run here."""
        return all(shutil.which(str(need)) for need in self.needs)


def environment(url: str, origin: Origin, folder: Path) -> dict[str, str]:
    """What every client finds: the origin, its authority, and keys that nobody checks."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TMPDIR")}
    return {
        **kept,
        "HOME": str(folder),
        "AWS_ENDPOINT_URL_S3": url,
        "STORAGE_EMULATOR_HOST": url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CA_BUNDLE": str(origin.authority),
        "SSL_CERT_FILE": str(origin.authority),
        "REQUESTS_CA_BUNDLE": str(origin.authority),
        "HF_ENDPOINT": url,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HOME": str(folder / "home"),
    }


def _urls(case: Case, url: str) -> list[str]:
    return [f"{url}/{BUCKET}/{case.name}/{name}" for name in case.files]


def _ours(uri: str) -> Callable[[Case, str, Origin, Path], list[str | Path]]:
    def command(case: Case, _url: str, _origin: Origin, folder: Path) -> list[str | Path]:
        return [
            *(COMMAND, "prefetch", uri.format(name=case.name)),
            *("--root", folder / "root", "--connections", str(CONNECTIONS), "-o", "json"),
        ]

    return command


def _boto(kind: str) -> Callable[[Case, str, Origin, Path], list[str | Path]]:
    def command(case: Case, url: str, _origin: Origin, folder: Path) -> list[str | Path]:
        return [BENCH / "python", "-c", _BOTO, url, f"{case.name}/", str(case.count), folder, kind]

    return command


def _obstore(case: Case, url: str, origin: Origin, folder: Path) -> list[str | Path]:
    ca = str(origin.authority) if url == origin.tls_url else ""
    return [BENCH / "python", "-c", _OBSTORE, url, case.name, folder, ca]


def _aws(case: Case, url: str, _origin: Origin, folder: Path) -> list[str | Path]:
    return [
        *(BENCH / "aws", "--endpoint-url", url, "s3", "cp", "--recursive", "--only-show-errors"),
        *(f"s3://{BUCKET}/{case.name}/", folder),
    ]


def _s5cmd(case: Case, url: str, origin: Origin, folder: Path) -> list[str | Path]:
    unchecked = ["--no-verify-ssl"] if url == origin.tls_url else []
    source = f"s3://{BUCKET}/{case.name}/*"
    return [BENCH / "s5cmd", "--endpoint-url", url, *unchecked, "cp", source, f"{folder}/"]


def _rclone(case: Case, url: str, origin: Origin, folder: Path) -> list[str | Path]:
    remote = f":s3,provider=Other,env_auth=true,region=us-east-1,endpoint='{url}':{BUCKET}"
    return [
        *(BENCH / "rclone", "copy", "--config", os.devnull, "--ca-cert", origin.authority),
        *("--multi-thread-streams", str(CONNECTIONS), "--transfers", str(CONNECTIONS)),
        *(f"{remote}/{case.name}", folder),
    ]


def _curl(case: Case, url: str, origin: Origin, folder: Path) -> list[str | Path]:
    script = folder / "curl.conf"
    script.write_text("".join(f'url = "{u}"\nremote-name\n' for u in _urls(case, url)))
    return [
        *("curl", "-sSf", "--cacert", origin.authority, "--parallel", "--parallel-max"),
        *(str(CONNECTIONS), "--output-dir", folder, "-K", script),
    ]


def _aria2c(case: Case, url: str, origin: Origin, folder: Path) -> list[str | Path]:
    script = folder / "aria2.txt"
    script.write_text("\n".join(_urls(case, url)))
    return [
        *("aria2c", "-q", "-i", script, "-d", folder, f"--ca-certificate={origin.authority}"),
        *("-j", str(CONNECTIONS), "-x", str(CONNECTIONS), "-s", str(CONNECTIONS)),
        *("--file-allocation=falloc", "--auto-file-renaming=false"),
    ]


def _google(case: Case, _url: str, _origin: Origin, folder: Path) -> list[str | Path]:
    return [BENCH / "python", "-c", _GOOGLE, f"{case.name}/", str(case.count), folder]


def _hub(case: Case, _url: str, _origin: Origin, folder: Path) -> list[str | Path]:
    return [BENCH / "python", "-c", _HUB, f"bench/{case.name}", "c" * 40, folder / "hub"]


CLIENTS = (
    Client("modelcache prefetch s3://", _ours("s3://models/{name}"), "s3", durable=True),
    Client("rclone copy", _rclone, "s3", needs=(BENCH / "rclone",)),
    Client("s5cmd cp", _s5cmd, "s3", needs=(BENCH / "s5cmd",)),
    Client("curl --parallel", _curl, "s3", needs=("curl",)),
    Client("aria2c -x 8", _aria2c, "s3", needs=("aria2c",)),
    Client("obstore, 8 MiB ranges", _obstore, "s3", needs=(BENCH / "python",)),
    Client("boto3", _boto("default"), "s3", needs=(BENCH / "python",)),
    Client("boto3, tuned", _boto("tuned"), "s3", needs=(BENCH / "python",)),
    Client("boto3, CRT", _boto("crt"), "s3", needs=(BENCH / "python",), plain=False),
    Client("aws s3 cp", _aws, "s3", needs=(BENCH / "aws",)),
    Client("modelcache prefetch gs://", _ours("gs://models/{name}"), "gs", durable=True),
    Client("google.cloud.storage transfer_manager", _google, "gs", needs=(BENCH / "python",)),
    Client("modelcache prefetch hf://", _ours("hf://bench/{name}@" + "c" * 40), "hf", durable=True),
    Client("huggingface_hub snapshot_download", _hub, "hf", needs=(BENCH / "python",)),
)
