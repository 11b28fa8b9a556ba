"""A server of this machine that answers as the Hugging Face Hub does, for push and pull."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from urllib.parse import unquote


class FakeHub:
    """repos: files by name for each repository, in one commit a push.

    requests: "METHOD path" of every request. private: repositories that answer 404.
    """

    def __init__(self):
        self.repos, self.requests, self.private, self.made = {}, [], set(), {}
        self.address = ""

    def sha(self, repo):
        files = self.repos[repo]
        text = "".join(f"{name}{hashlib.sha1(data).hexdigest()}" for name, data in files.items())
        return hashlib.sha1(text.encode()).hexdigest()

    def answer(self, method, path, body):
        """(status, headers, body) of a request."""
        self.requests.append(f"{method} {path}")
        path, _, _ = path.partition("?")
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else ""
            self.made[name] = asked
            status = 409 if name in self.repos else 200
            self.repos.setdefault(name, {})
            return status, {}, {"url": f"{self.address}/{name}", "name": name}
        if path == "/api/validate-yaml":
            return 200, {}, {"errors": [], "warnings": []}
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/([a-z]+)(?:/([^/]+))?)?", path)
        if found:
            return self._of_repo(*found.groups(), body)
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not found or found[1] not in self.repos:
            return self._missing()
        data = self.repos[found[1]].get(unquote(found[3]))
        if data is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, {}
        etag = f'"{hashlib.sha1(data).hexdigest()}"'
        return 200, {"ETag": etag, "X-Repo-Commit": self.sha(found[1])}, data

    def _of_repo(self, repo, kind, revision, body):
        if repo not in self.repos or repo in self.private:
            return self._missing()
        files = self.repos[repo]
        if kind in (None, "revision", "tree") and revision not in (None, "main", self.sha(repo)):
            return 404, {"X-Error-Code": "RevisionNotFound"}, {}
        if kind in (None, "revision"):
            siblings = [{"rfilename": n, "size": len(x)} for n, x in files.items()]
            return 200, {}, {"id": repo, "sha": self.sha(repo), "siblings": siblings}
        if kind == "tree":
            oid = lambda data: hashlib.sha1(data).hexdigest()  # noqa: E731
            entries = [(name, len(data), oid(data)) for name, data in files.items()]
            return (
                200,
                {},
                [{"type": "file", "path": n, "size": s, "oid": o} for n, s, o in entries],
            )
        if kind == "preupload":
            asked = [one["path"] for one in json.loads(body)["files"]]
            told = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in asked]
            return 200, {}, {"files": told}
        assert kind == "commit"
        for line in body.splitlines():
            change = json.loads(line)
            if change["key"] == "file":
                files[change["value"]["path"]] = base64.b64decode(change["value"]["content"])
            elif change["key"] == "deletedFile":
                del files[change["value"]["path"]]
        commit = {"commitUrl": f"{self.address}/{repo}/commit/{self.sha(repo)}", "hookOutput": ""}
        return 200, {}, {**commit, "success": True, "commitOid": self.sha(repo)}

    def _missing(self):
        return 404, {"X-Error-Code": "RepoNotFound"}, {}


@contextlib.contextmanager
def serving(hub):
    """Yield the address of a server that answers as `hub` does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, answer = hub.answer(self.command, self.path, body)
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": len(data)}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = reply

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        hub.address = f"http://127.0.0.1:{server.server_port}"
        yield hub.address
        server.shutdown()
        thread.join()
