"""A store of one's own: codes in a SQLite file, compared one by one."""

import json
import sqlite3
import threading

import numpy as np
import torch

from pml_hashing.search import CodeStore, Neighbors, Records
from pml_hashing.search.store import check_types, id_held, id_missing, other_kind

TABLES = """
create table if not exists codes (
    place integer primary key autoincrement, id text unique, code blob, vector blob, metadata text);
create table if not exists facts (name text primary key, value text);
"""


def hamming(first, second):
    return (int.from_bytes(first, "big") ^ int.from_bytes(second, "big")).bit_count()


def to_tensor(blobs, dtype):
    return torch.from_numpy(np.stack([np.frombuffer(blob, dtype) for blob in blobs]))


def to_rows(records):
    """Yield code and vector of each record as bytes, and its metadata."""
    for row, code in enumerate(records.packed_codes.cpu().numpy()):
        vector = None if records.vectors is None else records.vectors[row].cpu().numpy().tobytes()
        yield code.tobytes(), vector, {name: v[row] for name, v in records.metadata.items()}


def from_json(text):
    id_ = json.loads(text)
    return to_tuple(id_) if isinstance(id_, list) else id_


def to_tuple(parts):
    return tuple(to_tuple(part) if isinstance(part, list) else part for part in parts)


class SQLiteStore(CodeStore):
    def __init__(self, path=":memory:"):
        self._lock = threading.RLock()  # of one connection in many threads
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.create_function("hamming", 2, hamming, deterministic=True)
        self._db.executescript(TABLES)

    @property
    def code_length(self):
        return self._fact("code_length", None)

    @property
    def with_vectors(self):
        return self._fact("with_vectors", False)

    @property
    def next_id(self):
        return self._fact("next_id", 0)

    @property
    def columns(self):
        types = {kind.__name__: kind for kind in (str, int, float, bool)}
        return {name: types.get(kind) for name, kind in self._fact("columns", {}).items()}

    def count(self, where):
        condition, values = self._condition(where)
        return self._rows(f"select count(*) from codes {condition}", values)[0][0]

    def prepare(self, code_length, *, with_vectors, next_id=0):
        with self._lock, self._db:
            if (self.code_length, self.with_vectors) != (code_length, with_vectors) and len(self):
                raise other_kind(code_length, self.code_length, with_vectors)
            next_id = max(next_id, self.next_id)
            self._set(code_length=code_length, with_vectors=with_vectors, next_id=next_id)

    def append(self, records):
        with self._lock, self._db:
            records = records._replace(metadata=check_types(self.columns, records.metadata))
            first = self.next_id
            ids = records.ids or list(range(first, first + len(records.packed_codes)))
            for id_ in ids:
                if self.contains(id_):
                    raise id_held(id_)
            self._db.executemany(
                "insert into codes (id, code, vector, metadata) values (?, ?, ?, ?)",
                [
                    (json.dumps(id_), code, vector, json.dumps(metadata))
                    for id_, (code, vector, metadata) in zip(ids, to_rows(records), strict=True)
                ],
            )
            self._note_columns(records.metadata)
            integers = (id_ for id_ in ids if isinstance(id_, int))
            self._set(next_id=max(first, 1 + max(integers, default=-1)))

    def replace(self, records):
        with self._lock, self._db:
            records = records._replace(metadata=check_types(self.columns, records.metadata))
            held = self._get(records.ids)
            for old, (code, vector, metadata) in zip(held, to_rows(records), strict=True):
                self._db.execute(
                    "update codes set code = ?, vector = ?, metadata = ? where place = ?",
                    (code, vector, json.dumps(json.loads(old[4]) | metadata), old[0]),
                )
            self._note_columns(records.metadata)

    def remove(self, ids):
        with self._lock, self._db:
            places = [(record[0],) for record in self._get(ids)]
            self._db.executemany("delete from codes where place = ?", places)

    def clear(self):
        with self._lock, self._db:
            self._db.execute("delete from codes")
            self._db.execute("delete from facts")

    def get(self, ids):
        with self._lock:
            return self._records(self._get(ids))

    def contains(self, id_):
        return bool(self._rows("select 1 from codes where id = ?", [json.dumps(id_)]))

    def batches(self, size):
        last = -1
        while rows := self._rows(
            "select * from codes where place > ? order by place limit ?", [last, size]
        ):
            last = rows[-1][0]
            yield self._records(rows)

    def nearest(self, packed_query, k, where, *, fetch=None):
        with self._lock:
            found = [self._near(query, where, k, None) for query in packed_query.cpu()]
        device, column = packed_query.device, 2 if fetch == "packed_codes" else 3
        values = None
        if fetch and found[0]:
            dtype = np.uint8 if fetch == "packed_codes" else np.float32
            values = torch.stack(
                [to_tensor([row[column] for row in rows], dtype) for rows in found]
            )
            values = values.to(device)
        return Neighbors(
            torch.tensor([[row[5] for row in rows] for rows in found], dtype=torch.int32).to(
                device
            ),
            [[from_json(row[1]) for row in rows] for rows in found],
            torch.tensor([[row[0] for row in rows] for rows in found]).to(device),
            values,
        )

    def within(self, packed_query, radius, where):
        with self._lock:
            found = [self._near(query, where, -1, radius) for query in packed_query.cpu()]
        distances = [torch.tensor([row[5] for row in rows], dtype=torch.int32) for rows in found]
        ids = [[from_json(row[1]) for row in rows] for rows in found]
        return [part.to(packed_query.device) for part in distances], ids

    def frozen(self):
        return self._lock

    def close(self):
        self._db.close()

    def __del__(self):  # else Python 3.13 warns
        self._db.close()

    def _near(self, query, where, k, radius):
        condition, values = self._condition(where)
        order = "where distance <= ? order by distance, place limit ?"
        sql = (
            f"select * from (select *, hamming(code, ?) as distance from codes {condition}) {order}"
        )
        return self._rows(
            sql, [query.numpy().tobytes(), *values, 2**31 if radius is None else radius, k]
        )

    def _condition(self, where):
        parts, values = ["true"], []
        for name, wanted in where.items():
            column = f"json_extract(metadata, '$.{name}')"  # an identifier: nothing else passes
            marks = ", ".join("?" for _ in wanted)
            missing = f"{column} is null" if None in wanted else "false"
            parts.append(f"({column} in ({marks}) or {missing})")
            values += wanted
        return f"where {' and '.join(parts)}", values

    def _get(self, ids):
        records = []
        for id_ in ids:
            found = self._rows("select * from codes where id = ?", [json.dumps(id_)])
            if not found:
                raise id_missing(id_)
            records += found
        return records

    def _records(self, rows):
        metadata = [json.loads(row[4]) for row in rows]
        return Records(
            [from_json(row[1]) for row in rows],
            to_tensor([row[2] for row in rows], np.uint8),
            to_tensor([row[3] for row in rows], np.float32) if self.with_vectors else None,
            {name: [values.get(name) for values in metadata] for name in self.columns},
        )

    def _note_columns(self, metadata):
        columns = self._fact("columns", {})
        for name, values in metadata.items():
            kinds = {type(value).__name__ for value in values if value is not None}
            columns[name] = columns.get(name) or next(iter(kinds), None)
        self._set(columns=columns)

    def _fact(self, name, default):
        found = self._rows("select value from facts where name = ?", [name])
        return json.loads(found[0][0]) if found else default

    def _set(self, **facts):
        rows = [(name, json.dumps(value)) for name, value in facts.items()]
        self._db.executemany("insert or replace into facts values (?, ?)", rows)

    def _rows(self, sql, values):
        with self._lock:
            return self._db.execute(sql, values).fetchall()
