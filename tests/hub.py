"""A Hugging Face hub on the loopback interface, with the data sets that a test gives it.

    with Hub({"ylecun/mnist": mnist(train=60, test=20)}) as hub:
        subprocess.run([...], env=os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")})
    assert hub.requests  # (method, path) of each

It answers what `datasets` and `huggingface_hub` ask when they load a data set: repository information, folder listings,
and files, whole or in ranges. A data set is a mapping from a file's path to its bytes; `name@refs/convert/parquet` is
the hub's own copy of the data set `name`.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import re
import threading
import urllib.parse
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Repository = Mapping[str, bytes]
REVISION = "0123456789abcdef0123456789abcdef01234567"
MADE = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
CONVERTED, CONVERTED_REVISION = "refs/convert/parquet", "fedcba9876543210fedcba9876543210fedcba98"
FILE = re.compile(rf"/datasets/(?P<name>[^/]+/[^/]+)/resolve/(?P<at>{CONVERTED}|[^/]+)/(?P<path>.+)")
API = re.compile(
    rf"/api/datasets/(?P<name>[^/]+/[^/]+)"
    rf"(/(?P<what>revision|tree|paths-info)/(?P<at>{CONVERTED}|[^/]+)(/(?P<path>.+))?)?"
)


class Hub:
    """The server, running from its `with` to the end of it; `requests` lists what it was asked."""

    def __init__(self, repositories: Mapping[str, Repository]) -> None:
        self.requests: list[tuple[str, str]] = []
        hub = self

        class Handler(_Handler):
            repositories_ = repositories
            requests_ = hub.requests

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repositories_: Mapping[str, Repository]
    requests_: list[tuple[str, str]]

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Silent."""

    def _answer(self) -> None:
        path = urllib.parse.unquote(self.path.partition("?")[0])
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.requests_.append((self.command, self.path))
        file, api = FILE.fullmatch(path), API.fullmatch(path)
        match = file or api
        converted = match is not None and match["at"] in (CONVERTED, CONVERTED_REVISION)
        sha = CONVERTED_REVISION if converted else REVISION
        repository = self.repositories_.get(match["name"] + f"@{CONVERTED}" * converted) if match else None
        if match is None or repository is None:
            self._send(404, b"Repository not found", {"X-Error-Code": "RepoNotFound"})
        elif file:
            self._send_file(repository, file["path"], sha)
        else:
            described = _described(match["name"], repository, match["what"], match["path"] or "", body)
            self._send_json(described | {"sha": sha} if isinstance(described, dict) else described)

    def _send_file(self, repository: Repository, path: str, sha: str) -> None:
        headers = {"X-Repo-Commit": sha}
        if path not in repository:
            self._send(404, b"Entry not found", headers | {"X-Error-Code": "EntryNotFound"})
            return
        content, status = repository[path], 200
        headers |= {"ETag": f'"{_oid(content)}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        self._send(status, content, headers)

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _described(name: str, repository: Repository, what: str | None, path: str, body: bytes) -> Any:
    """What the hub's API says of a repository, of a folder in it, or of some of its paths."""
    if what == "tree":
        base = f"{path}/" if path else ""
        inside = [file for file in repository if file.startswith(base)]
        folders = {base + file[len(base) :].partition("/")[0] for file in inside} - set(inside)
        files = [file for file in inside if "/" not in file[len(base) :]]
        return [_folder(folder) for folder in sorted(folders)] + [_entry(file, repository[file]) for file in files]
    if what == "paths-info":
        asked = json.loads(body)["paths"]
        return [_entry(file, repository[file]) for file in asked if file in repository]
    files = [{"rfilename": file} for file in repository]
    about = {"id": name, "private": False, "gated": False, "disabled": False, "tags": []}
    return about | {
        "author": name.partition("/")[0],
        "downloads": 0,
        "likes": 0,
        "lastModified": MADE,
        "siblings": files,
    }


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": _oid(path.encode())}


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def mnist(*, train: int, test: int) -> Repository:
    """ylecun/mnist in little: image i has the brightness i and the label i % 10; test images count on from there."""
    import datasets
    import numpy as np
    from PIL import Image

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    files: dict[str, bytes] = {}
    for split, numbers in (("train", range(train)), ("test", range(train, train + test))):
        pictures = [Image.fromarray(np.full((28, 28), number % 256, np.uint8)) for number in numbers]
        rows = {"image": pictures, "label": [number % 10 for number in numbers]}
        file = io.BytesIO()
        datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
        files[f"mnist/{split}-00000-of-00001.parquet"] = file.getvalue()
    paths = {split: f"mnist/{split}-*" for split in ("train", "test")}
    return {"README.md": _readme("mnist", paths)} | files


def cifar100(*, train: int, test: int) -> Repository:
    """uoft-cs/cifar100 in little: image i has the colour (i, 0, 255 - i) and the label i % 100."""
    import datasets
    import numpy as np
    from PIL import Image

    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine_label": datasets.ClassLabel(num_classes=100),
            "coarse_label": datasets.ClassLabel(num_classes=20),
        }
    )
    files: dict[str, bytes] = {}
    for split, numbers in (("train", range(train)), ("test", range(train, train + test))):
        colours = [np.full((32, 32, 3), (number, 0, 255 - number), np.uint8) for number in numbers]
        rows = {
            "img": [Image.fromarray(colour) for colour in colours],
            "fine_label": [number % 100 for number in numbers],
            "coarse_label": [number % 20 for number in numbers],
        }
        file = io.BytesIO()
        datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
        files[f"cifar100/{split}-00000-of-00001.parquet"] = file.getvalue()
    paths = {split: f"cifar100/{split}-*" for split in ("train", "test")}
    return {"README.md": _readme("cifar100", paths)} | files


def fineweb_edu(texts: Iterable[str], *, files: int = 1) -> Repository:
    """HuggingFaceFW/fineweb-edu in little: these texts as its configuration sample-10BT, divided into `files`."""
    every = list(texts)
    parts = [every[len(every) * number // files : len(every) * (number + 1) // files] for number in range(files)]
    readme = _readme("sample-10BT", {"train": "sample/10BT/*"})
    tables = {f"sample/10BT/{number:03}_00000.parquet": table(text=part) for number, part in enumerate(parts)}
    return {"README.md": readme} | tables


def stories(texts: Iterable[str], column: str = "text") -> Repository:
    """roneneldan/TinyStories in little, or any data set with one column of text and one configuration."""
    return {"data/train-00000-of-00001.parquet": table(**{column: list(texts)})}


def scripted(name: str, texts: Iterable[str]) -> dict[str, Repository]:
    """A data set that is a script, which `datasets` does not run any more, with the hub's copy of its rows."""
    script = {"README.md": b"", f"{name.rpartition('/')[2]}.py": b"raise SystemExit('this must not run')\n"}
    return {name: script, f"{name}@{CONVERTED}": {"default/train/0000.parquet": table(text=list(texts))}}


def table(**columns: list[Any]) -> bytes:
    """A parquet file with these columns."""
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def _readme(config: str, paths: Mapping[str, str]) -> bytes:
    lines = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
    for split, path in paths.items():
        lines += [f"  - split: {split}", f"    path: {path}"]
    return "\n".join([*lines, "---", ""]).encode()
