# The image of the agent and of all programs beside it: controller, webhook, link, prepare-root, cleanup.
#
#   docker build --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" .
#
# An index of your own, or a proxy with its own certificates, comes in through secrets, which stay
# out of the image:  --secret id=pip.conf,src=...  --secret id=ca.pem,src=...
# (in pip.conf then: cert = /run/secrets/ca.pem).
#
# The base: Debian with Python 3.11 or newer and its venv module. Pin it by digest for releases.
ARG BASE_IMAGE=python:3.13-slim-trixie

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ONLY_BINARY=:all: \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# /opt/build has pip and the build backend and stays behind; /opt/modelcache is what goes on, and
# pip is not in it.
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/modelcache

# The locked wheels, in a layer that only a changed lock makes anew.
COPY requirements.txt requirements-build.txt ./
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem \
    /opt/build/bin/pip install --require-hashes -r requirements-build.txt \
    && /opt/build/bin/pip --python /opt/modelcache/bin/python3 install --no-compile --require-hashes -r requirements.txt \
    # A second copy of the client, for asyncio, that nobody here imports: 68 MB.
    && rm -r /opt/modelcache/lib/python3*/site-packages/kubernetes/aio

COPY pyproject.toml README.md ./
COPY agent agent
# Bytecode that is never compared with its source: nobody can write either, and times of files do
# not survive every way of copying an image.
RUN /opt/build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/build/bin/pip --python /opt/modelcache/bin/python3 install --no-compile --no-index --no-deps --find-links dist model-cache-agent \
    && /opt/modelcache/bin/python3 -m compileall -q -f -j 0 --invalidation-mode unchecked-hash /opt/modelcache/lib

FROM ${BASE_IMAGE}
COPY --from=build /opt/modelcache /opt/modelcache
# It starts; and the bytecode of the standard library, which python:*-slim comes without, is kept:
# nobody can write it later.
RUN ["/opt/modelcache/bin/modelcache", "--version"]

# The root file system may be read-only: only the cache's root is written. No home, so that no
# library looks for settings, or keeps a cache, where nobody expects it.
ENV PATH=/opt/modelcache/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/nonexistent \
    HF_HUB_DISABLE_TELEMETRY=1 \
    MODELCACHE_LISTEN=0.0.0.0:8080
# /livez, /readyz, /metrics and /v1/node. The default elsewhere is loopback, which nobody can scrape
# in a pod.
EXPOSE 8080

# In numbers: kubelet's runAsNonRoot can't check a name.
USER 65532:65532
WORKDIR /

# No VOLUME: it would hide a forgotten mount of the cache's root behind an anonymous one.
# No init process: the agent starts no children and handles SIGTERM itself.
# The command is apart from the entry point, so that `args: ["controller"]` is all that a pod needs
# to run another program of this image.
ENTRYPOINT ["modelcache"]
CMD ["agent"]

# Last, since they differ in every build.
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="model-cache-agent" \
      org.opencontainers.image.description="Keeps LLM weights on each Kubernetes node's local disk before a pod needs them: fetched, verified, visible." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
