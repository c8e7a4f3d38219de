"""A hub in this process: what `huggingface_hub` asks for when a model is fetched or pushed."""

import base64
import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_a_test"


class Hub:
    """Repositories, each a dict of files.

    Attributes:
        repositories: Contents of files by their names, by the name of the repository.
        commits: The headers of the commits that were pushed.
        asked: Method and path of each request.
        private: Names of repositories that only the owner of `TOKEN` sees.
        status: Of the answer for the home page.
    """

    def __init__(self):
        self.status = 200
        self.repositories, self.commits, self.asked, self.private = {}, [], [], set()

    @contextmanager
    def serve(self):
        """Answer at the address that is yielded."""
        handler = type("Handler", (Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, content, status=200, **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status, code):
        self.answer({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

    def do_GET(self):
        self.hub.asked.append((self.command, self.path))
        name, separator, place = self.path.lstrip("/").partition("/resolve/")
        if separator:
            self.answer_file(name, *place.split("/", 1))
        elif not self.path.startswith("/api/models/"):
            self.answer({}, self.hub.status)
        elif (name := "/".join(self.path.split("/")[3:5])) in self.hub.repositories:
            self.answer({"id": name, "sha": COMMIT, "siblings": []})
        else:
            self.refuse(404, "RepoNotFound")

    def answer_file(self, name, revision, filename):
        known = name in self.hub.repositories
        if not known or (name in self.hub.private and TOKEN not in str(self.headers)):
            self.refuse(404, "RepoNotFound")
        elif revision not in {"main", COMMIT}:
            self.refuse(404, "RevisionNotFound")
        elif filename not in self.hub.repositories[name]:
            self.refuse(404, "EntryNotFound")
        else:
            content = self.hub.repositories[name][filename]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.answer(content, ETag=etag, X_Repo_Commit=COMMIT)

    do_HEAD = do_GET  # noqa: N815 - the name that the server calls

    def do_POST(self):
        self.hub.asked.append((self.command, self.path))
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if TOKEN not in str(self.headers):
            return self.refuse(401, "Unauthorized")
        if self.path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked['organization']}/{asked['name']}"
            status = 409 if name in self.hub.repositories else 200
            self.hub.repositories.setdefault(name, {})
            if asked.get("private") or asked.get("visibility") == "private":
                self.hub.private.add(name)
            made = {"url": f"http://{self.headers['Host']}/{name}", "name": name}
            return self.answer(made, status)
        if not self.path.startswith("/api/models/"):  # such as /api/validate-yaml
            return self.answer({"errors": [], "warnings": []})
        user, model, kind = self.path.split("/")[3:6]
        if kind == "preupload":
            files = json.loads(content)["files"]
            regular = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer({"files": [{"path": of["path"], **regular} for of in files]})
        return self.commit(f"{user}/{model}", content)

    def commit(self, name, content):
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.hub.commits.append(value)
            else:
                files = self.hub.repositories[name]
                files[value["path"]] = base64.b64decode(value["content"])
        address = f"{constants.ENDPOINT}/{name}/commit/{COMMIT}"  # all that some versions parse
        self.answer({"commitUrl": address, "commitOid": COMMIT, "success": True})
