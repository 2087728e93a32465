"""An OCI registry on the loopback interface, and tiny images for it. It implements what Apptainer and glm5bench need.

Use it as `with Registry() as registry: registry.push(image, "team/tiny", "1.0")`. `registry.n_requests` counts requests. A test can hold
back a layer or cut it off in the middle. An image has one gzip layer for each directory, and can also be written as an OCI archive.
Source: the OCI image and distribution specifications.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import tarfile
import threading
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
TOKEN = "a-token-of-this-registry"


def digest(content: bytes) -> str:
    """The digest `sha256:...` of these bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Oci:
    """One image: its manifest, and the blobs that the manifest refers to."""

    manifest: bytes
    config: bytes
    layers: tuple[bytes, ...]

    @property
    def digest(self) -> str:
        """The digest that pins the image."""
        return digest(self.manifest)

    @property
    def blobs(self) -> dict[str, bytes]:
        """All blobs that the manifest refers to, by digest."""
        return {digest(content): content for content in (self.config, *self.layers)}


def oci_image(*roots: Path, label: str = "") -> Oci:
    """The image with these directories as layers. The same files give the same image. Another label gives another digest."""
    plain = [_tar(root) for root in roots]
    layers = tuple(gzip.compress(tar, 1, mtime=0) for tar in plain)
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/usr/bin:/bin"], "Labels": {"which": label}},
            "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar in plain]},
        }
    )
    named = [_named(LAYER, layer) for layer in layers]
    manifest = _json({"schemaVersion": 2, "mediaType": MANIFEST, "config": _named(CONFIG, config), "layers": named})
    return Oci(manifest, config, layers)


def write_archive(image: Oci, path: Path, *, index: bytes | None = None) -> Path:
    """The image as an OCI archive. `index`: an index.json that replaces the correct one."""
    right = _json({"schemaVersion": 2, "manifests": [_named(MANIFEST, image.manifest)]})
    files = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": right if index is None else index}
    for content in (image.manifest, *image.blobs.values()):
        files["blobs/sha256/" + digest(content).partition(":")[2]] = content
    with tarfile.open(path, "w") as tar:
        for name in ("blobs", "blobs/sha256"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def _tar(root: Path) -> bytes:
    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = "root"
        return entry

    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for path in sorted(root.rglob("*")):
            tar.add(path, str(path.relative_to(root)), recursive=False, filter=plain)
    return made.getvalue()


def _named(kind: str, content: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": digest(content), "size": len(content)}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


@dataclass(frozen=True)
class Login:
    """Whether a registry needs tokens, and who gets them: everybody if `user` is empty. `answer`: sent instead of a token."""

    user: str = ""
    password: str = ""
    answer: bytes = b""


class Registry:
    """A registry on its own port. It runs until the context ends."""

    def __init__(self, login: Login | None = None) -> None:
        self.login = login
        self.n_requests: Counter[str] = Counter()  # "GET /v2/team/tiny/blobs/sha256:..."
        self.n_cuts: Counter[str] = Counter()  # how often the blob of this digest will still be cut off in the middle
        self._manifests: dict[tuple[str, str], bytes] = {}
        self._blobs: dict[str, bytes] = {}
        self._held: dict[str, _Hold] = {}
        self._server = _Server(("127.0.0.1", 0), _Answer)
        self._server.registry = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Registry:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for hold in self._held.values():
            hold.free.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()  # waits for its threads

    @property
    def host(self) -> str:
        """The host part of image names in this registry: 127.0.0.1:PORT."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def push(self, image: Oci, repository: str, tag: str) -> str:
        """Stores the image and returns its name. An existing tag moves to it, and the previous image stays available by its digest."""
        self._blobs.update(image.blobs)
        self._manifests[repository, image.digest] = self._manifests[repository, tag] = image.manifest
        return f"{self.host}/{repository}:{tag}"

    def push_index(self, image: Oci, repository: str, tag: str) -> str:
        """Stores an index of images for several machine types and returns its digest. This image is the one for our machine."""
        ours = {**_named(MANIFEST, image.manifest), "platform": {"architecture": "amd64", "os": "linux"}}
        other = {**_named(MANIFEST, b"{}"), "platform": {"architecture": "arm64", "os": "linux"}}
        index = _json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [other, ours]})
        self.push(image, repository, digest(index))
        self._manifests[repository, digest(index)] = self._manifests[repository, tag] = index
        return digest(index)

    def hold(self, content: bytes) -> _Hold:
        """Holds back this blob until `free` is set. `asked` is set as soon as a client waits for it."""
        hold = self._held[digest(content)] = _Hold(threading.Event(), threading.Event())
        return hold

    def cut(self, content: bytes, n: int) -> None:
        """Cuts off the connection in the middle of this blob for the next n requests."""
        self.n_cuts[digest(content)] = n

    def n_fetches(self, *contents: bytes) -> int:
        """How often these blobs were requested, or any blob if no digest is given."""
        names = [f"/blobs/{digest(c)}" for c in contents] or ["/blobs/sha256:"]
        return sum(n for request, n in self.n_requests.items() if request.startswith("GET") and any(name in request for name in names))


@dataclass(frozen=True)
class _Hold:
    asked: threading.Event
    free: threading.Event


class _Server(ThreadingHTTPServer):
    registry: Registry
    daemon_threads = False  # no thread outlives its test

    def handle_error(self, *_: object) -> None:
        """Ignores errors from clients that were killed."""


class _Answer(BaseHTTPRequestHandler):
    server: _Server
    timeout = 30  # timeout of an idle connection

    def log_message(self, *_: object) -> None:
        """Logs nothing: tests count requests instead."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        registry, url = self.server.registry, urlsplit(self.path)
        registry.n_requests[f"{self.command} {url.path}"] += 1
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", url.path)
        if url.path == "/token":
            self._token(parse_qs(url.query))
        elif registry.login and self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._refuse(found.group(1) if found else "")
        elif url.path == "/v2/":
            self._send(200, "application/json", b"{}")
        elif found and found.group(2) == "manifests":
            self._manifest(registry._manifests.get((found.group(1), found.group(3))))
        elif found and found.group(3) in registry._blobs:
            self._blob(found.group(3), registry._blobs[found.group(3)])
        else:
            self._lacks("BLOB_UNKNOWN")

    def _refuse(self, repository: str) -> None:
        scope = f',scope="repository:{repository}:pull"' if repository else ""
        asks = f'Bearer realm="http://{self.server.registry.host}/token",service="tiny registry"{scope}'
        self._send(401, "application/json", b'{"errors": [{"code": "UNAUTHORIZED"}]}', ("www-authenticate", asks))

    def _token(self, asked: dict[str, list[str]]) -> None:
        login = self.server.registry.login or Login()
        basic = "Basic " + base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
        if login.answer:
            self._send(502, "text/html", login.answer)
        elif asked.get("service") != ["tiny registry"] or (login.user and self.headers.get("authorization") != basic):
            self._send(401, "application/json", b'{"errors": [{"code": "UNAUTHORIZED"}]}')
        else:
            self._send(200, "application/json", _json({"token": TOKEN, "expires_in": 300}))

    def _manifest(self, manifest: bytes | None) -> None:
        if manifest is None:
            self._lacks("MANIFEST_UNKNOWN")
        else:
            self._send(200, str(json.loads(manifest)["mediaType"]), manifest, ("docker-content-digest", digest(manifest)))

    def _blob(self, name: str, content: bytes) -> None:
        registry, kind = self.server.registry, "application/octet-stream"
        hold, is_cut = registry._held.get(name), self.command == "GET" and registry.n_cuts[name] > 0
        registry.n_cuts[name] -= is_cut
        self._send(200, kind, content, hold=hold if self.command == "GET" else None, n_sent=len(content) // 2 if is_cut else None)

    def _lacks(self, code: str) -> None:
        self._send(404, "application/json", _json({"errors": [{"code": code, "message": "it is not here"}]}))

    def _send(
        self, status: int, kind: str, content: bytes, *headers: tuple[str, str], hold: _Hold | None = None, n_sent: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (("content-type", kind), ("content-length", str(len(content))), *headers):
            self.send_header(name, value)
        self.end_headers()
        if hold:
            hold.asked.set()
            hold.free.wait()
        if self.command == "GET":
            self.wfile.write(content[:n_sent])
