"""Answers as a ClickHouse server does, over HTTP, by the engine in this process.

    python clickhouse_bridge.py FOLDER PORT [CLUSTER]

It stands in for a server where there is none: for the client's way over the network, for several
processes that share a table, and for a server that goes away. It is no server: there is one user,
and one statement at a time. Of a cluster it has one shard, which is itself: what is `Distributed`
is that, but nothing is replicated, and a statement for the whole cluster runs here alone.
"""

import gzip
import re
import sys
import tempfile
import threading
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import chdb
import lz4.frame

ONE_AT_A_TIME = threading.Lock()
DECODERS = {"lz4": lz4.frame.decompress, "gzip": gzip.decompress}
ONE_SHARD = """<clickhouse><tcp_port>9000</tcp_port><remote_servers><{cluster}><shard><replica>
<host>localhost</host><port>9000</port></replica></shard></{cluster}></remote_servers></clickhouse>
"""
REPLICATED = re.compile(r"ReplicatedReplacingMergeTree\('[^']*', '[^']*'(?:, )?")
MAX_FIELD = 2**17  # bytes of a field of a form or an address, as a server has it
OF_THE_CLIENT = ("wait_end_of_query", "client_protocol_version", "query_id", "buffer_size")


class Engine:
    """The statements of one request, each on a connection that is its own."""

    def __init__(self, folder, cluster=None):
        if cluster is not None:
            Path(f"{folder}.xml").write_text(ONE_SHARD.format(cluster=cluster))
            folder = f"{folder}?config-file={folder}.xml"
        self.connection, self.folder, self.cluster = chdb.connect(folder), folder, cluster

    def answer(self, query, parameters, settings, tables, data):
        if self.cluster is not None:
            query = self.of_one(query)
        connection = chdb.connect(self.folder)
        try:
            for name, value in settings.items():
                connection.query(f"set {name} = '{value}'", "TSV")
            for name, (structure, form, rows) in tables.items():
                connection.query(f"create temporary table {name} ({structure})", "TSV")
                self.insert(connection, f"insert into {name} from infile", form, rows)
            if data is None:
                return connection.query(query, "TSV", params=parameters).bytes()
            head, _, form = query.strip().rpartition("FORMAT")
            self.insert(connection, f"{head} from infile", form.strip(), data)
            return b""
        finally:
            connection.close()

    def of_one(self, query):
        """Return a statement for a cluster as one for this engine alone."""
        if query.startswith("system sync replica"):
            return "select 1"
        query = query.replace(f" on cluster {self.cluster}", "")
        return REPLICATED.sub("ReplacingMergeTree(", query)

    def insert(self, connection, statement, form, rows):
        with tempfile.NamedTemporaryFile(suffix=".data") as file:
            Path(file.name).write_bytes(rows)
            connection.query(f"{statement} '{file.name}' format {form}", "TSV")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.reply(200, b"Ok.\n")

    def do_POST(self):
        values = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self.chunk, b""))
        if encoding := self.headers.get("Content-Encoding"):
            body = DECODERS[encoding](body)
        query, data, tables = values.pop("query", None), body, {}
        if self.headers.get_content_type() == "multipart/form-data":
            tables, data = self.tables(values, body), None
            query = values.pop("query", query)
        elif query is None:
            query, data = body.decode(), None
        data = data or None
        if any(len(value) > MAX_FIELD for value in values.values()):
            return self.reply(500, b"HTML Form Exception: Field value too long")
        parameters = {n[6:]: v for n, v in values.items() if n.startswith("param_")}
        settings = {
            name: value
            for name, value in values.items()
            if not name.startswith("param_")
            and name not in {*OF_THE_CLIENT, "database", "enable_http_compression"}
            and not name.startswith("send_progress")
            and not name.startswith("http_headers")
        }
        try:
            with ONE_AT_A_TIME:
                answer = self.server.engine.answer(query, parameters, settings, tables, data)
        except Exception as error:
            self.reply(500, str(error).encode())
        else:
            self.reply(200, answer)

    def chunk(self):
        size = int(self.rfile.readline(), 16)
        content = self.rfile.read(size)
        self.rfile.readline()
        return content

    def tables(self, values, body):
        """Take the external tables out of a form, and put its fields among the values."""
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        found = {}
        for part in BytesParser(policy=HTTP).parsebytes(head + body).iter_parts():
            name = part.get_param("name", header="content-disposition")
            content = part.get_payload(decode=True)
            if part.get_filename() is None:
                values[name] = content.decode()
                continue
            structure, form = values.pop(f"{name}_structure"), values.pop(f"{name}_format")
            found[name] = structure, form, content
        return found

    def reply(self, status, content):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if status != 200 and content.startswith(b"Code: "):
            code = content[6:].partition(b".")[0].decode()
            self.send_header("X-ClickHouse-Exception-Code", code)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Say nothing."""


if __name__ == "__main__":
    folder, port, *cluster = sys.argv[1:]
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    server.engine = Engine(folder, *cluster)
    server.serve_forever()
