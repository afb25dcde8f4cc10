"""A Hugging Face hub on this machine: the addresses that huggingface_hub, open_clip and datasets ask, and its troubles.

Written from what those libraries send and expect (huggingface_hub 2.4, datasets 5.2): information and trees of a
revision, and `resolve` with its redirect to the store of large files on another host, ETags and error codes. It has no
Xet store, so large files come by plain HTTP.
"""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
"""The first commit of every repository."""
LARGE = (".safetensors", ".bin", ".parquet")
"""Kept in the store of large files, whose names are their sha256."""


class Hub:
    """Repositories, what has been asked, and what is to go wrong.

    Attributes:
        files: (kind, repository) -> commit -> path -> content; kind is "models" or "datasets", main the last commit.
        asked: every request, as "METHOD path".
        refused: repository -> (status, headers) of every answer about it.
        troubles: last part of a path -> a list of troubles, each for one request of its content: a status to answer
            with, or "cut", which sends half of what is left and closes the connection.
    """

    def __init__(self):
        self.files, self.asked, self.refused, self.troubles = {}, [], {}, {}
        self.url = ""

    def add(self, kind, repository, files, commit=COMMIT):
        self.files.setdefault((kind, repository), {})[commit] = dict(files)


@contextmanager
def serving(hub):
    """The hub answers below `hub.url` until the block ends."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def _etag(path, content):
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.hub.asked.append(f"{self.command} {path}")
        words = path.strip("/").split("/")
        if path == "/":
            return self._send(200, b"")
        if words[0] == "store":
            return self._content(words[-1], self._stored(words[1]), {})
        if words[0] == "api":
            return self._api(words, parse_qs(parts.query))
        kind = words.pop(0) if words[0] == "datasets" else "models"
        if len(words) > 4 and words[2] == "resolve":
            return self._resolve(kind, "/".join(words[:2]), words[3], "/".join(words[4:]))
        return self._send(404, b"", {"X-Error-Code": "NotKnownToTheStub"})

    def _repository(self, kind, name, revision):
        """(commit, its files), or None where the answer has been given."""
        commits = self.hub.files.get((kind, name), {})
        commit = list(commits)[-1] if commits and revision == "main" else revision
        if name in self.hub.refused:
            status, headers = self.hub.refused[name]
            self._send(status, b"", headers)
        elif not commits:  # to the unknown it does not tell apart what is private and what does not exist
            self._send(401, b"", {"X-Error-Message": "Invalid username or password."})
        elif commit not in commits:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            return commit, commits[commit]
        return None

    def _api(self, words, query):
        kind, name, verb = words[1], "/".join(words[2:4]), words[4] if len(words) > 4 else ""
        found = self._repository(kind, name, words[5] if len(words) > 5 else "main")
        if found is None:
            return None
        commit, files = found
        if verb in ("", "revision"):
            about = {"id": name, "sha": commit, "private": False, "gated": False, "disabled": False, "tags": [],
                     "downloads": 0, "likes": 0, "lastModified": "2024-01-01T00:00:00.000Z",
                     "siblings": [{"rfilename": path} for path in files]}  # fmt: skip
            return self._json(about)
        if verb == "tree":
            below, deep = "/".join(words[6:]), query.get("recursive", ["false"])[0].lower() == "true"
            return self._json(list(self._tree(files, below, deep)))
        return self._send(404, b"", {"X-Error-Code": "NotKnownToTheStub"})

    def _tree(self, files, below, deep):
        folders = set()
        for path, content in files.items():
            if below and not path.startswith(f"{below}/"):
                continue
            rest = path[len(below) + 1 if below else 0 :].split("/")
            for depth in range(1, len(rest) if deep else min(len(rest), 2)):
                folders.add("/".join(filter(None, [below, *rest[:depth]])))
            if deep or len(rest) == 1:
                entry = {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": path}
                large = {"oid": _etag(path, content), "size": len(content), "pointerSize": 100}
                yield entry | ({"lfs": large} if path.endswith(LARGE) else {})
        yield from ({"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in sorted(folders))

    def _resolve(self, kind, name, revision, path):
        found = self._repository(kind, name, revision)
        if found is None:
            return None
        commit, files = found
        about = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if path not in files:
            return self._send(404, b"", about | {"X-Error-Code": "EntryNotFound"})
        etag = _etag(path, files[path])
        if not path.endswith(LARGE):
            return self._content(path.split("/")[-1], files[path], about | {"ETag": f'"{etag}"'})
        linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(files[path]))}
        store = self.hub.url.replace("127.0.0.1", "localhost")  # another host, as the real one is
        return self._send(302, b"", about | linked | {"Location": f"{store}/store/{etag}/{path.split('/')[-1]}"})

    def _stored(self, sha256):
        commits = [files for commits in self.hub.files.values() for files in commits.values()]
        contents = (content for files in commits for content in files.values())
        return next(content for content in contents if hashlib.sha256(content).hexdigest() == sha256)

    def _content(self, name, content, headers):
        troubles = self.hub.troubles.get(name, [])
        trouble = troubles.pop(0) if troubles else None
        if isinstance(trouble, int):
            return self._send(trouble, b"", {"Retry-After": "0"})
        first = self.headers.get("Range", "").removeprefix("bytes=").partition("-")[0]
        start = int(first) if first else 0
        if start:
            headers = headers | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        return self._send(206 if start else 200, content[start:], headers, cut=trouble == "cut")

    def _json(self, content):
        return self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status, content, headers=None, cut=False):
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True
