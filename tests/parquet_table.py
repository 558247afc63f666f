#!/usr/bin/env python3
"""tools/parquet_table.py: what it makes of Parquet is a table that flexgen reads, and comes back as it was. Needs PyPI pyarrow (77: it cannot be had). Usage: parquet_table.py SOURCE_DIR"""

import datetime
import decimal
import json
import os
import subprocess
import sys
import tempfile

from pip_module import pip_module


def check(condition, text):
    if not condition:
        sys.exit(f"parquet_table.py: {text}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        pa = pip_module("pyarrow", os.path.join(folder, "pip"))
        import pyarrow.parquet as pq
        path = lambda name: os.path.join(folder, name)

        def convert(*names, code=0):
            done = subprocess.run([sys.executable, os.path.join(sys.argv[1], "tools/parquet_table.py"), *map(path, names)], capture_output=True, text=True, timeout=120,
                                  env={**os.environ, "PYTHONPATH": os.pathsep.join([path("pip"), os.environ.get("PYTHONPATH", "")])})
            check(done.returncode == code, f"{names}: {done.returncode}, {done.stderr}")
            return done.stderr

        day, time = datetime.date(2020, 1, 2), datetime.time(3, 4, 5)
        columns = {
            "zip": pa.array(["00123", "2020-01-02"]), "day": pa.array([day, None]), "at": pa.array([datetime.datetime(2020, 1, 2, 3, 4, 5, 6), None], pa.timestamp("us")),
            "time": pa.array([time, None]), "price": pa.array([decimal.Decimal("12.3400"), None], pa.decimal128(20, 4)), "hash": pa.array([2**64 - 1, 0], pa.uint64()),
            "kind": pa.array(["x", None]).dictionary_encode(), "yes": pa.array([True, None]), "small": pa.array([1.5, None], pa.float32()), "n": pa.array([7, None])}
        nested = {"days": pa.array([[day], []]), "struct": pa.array([{"a": 1, "b": day}, None]), "names": pa.array([["a", "b"], None])}
        for ending, table in ((".jsonl", pa.table({**columns, **nested})), (".csv", pa.table(columns))):
            pq.write_table(table, path("t.parquet"))
            convert("t.parquet", "t" + ending)
            convert("t" + ending, "back.parquet", "t.parquet")
            back = pq.read_table(path("back.parquet"))
            for name in table.column_names:
                # A dictionary's form is Parquet's own; CSV has no null among texts.
                want = [value if value is not None or ending == ".jsonl" or name != "kind" else "" for value in table[name].to_pylist()]
                check(back[name].to_pylist() == want, f"{ending} {name}: {back[name].to_pylist()} of the type {back[name].type}")

        # What a block of Arrow's usual size, or Python's own types, would not hold; one column; no rows.
        nanoseconds = {"at": pa.array([1234567890123456789, None], pa.timestamp("ns")), "zone": pa.array([1234567890123456789, None], pa.timestamp("ns", "Europe/Berlin")),
                       "time": pa.array([1234567890123, None], pa.time64("ns"))}
        for name, table in (("row of 2 MiB", pa.table({"a": ["x" * (2 << 20), "y"], "n": [1, 2]})), ("nanoseconds", pa.table(nanoseconds)),
                            ("one column", pa.table({"yes": [True, None, False]})), ("no rows", pa.table({"n": pa.array([], pa.int64())}))):
            for ending in (".jsonl", ".csv"):
                pq.write_table(table, path("t.parquet"))
                convert("t.parquet", "t" + ending)
                convert("t" + ending, "back.parquet", "t.parquet")
                back = pq.read_table(path("back.parquet"))
                check(back.equals(table), f"{name} {ending}: {str(back.schema)}, {back.num_rows} rows")
        with open(path("empty.jsonl"), "w"):
            check("give LIKE.parquet" in convert("empty.jsonl", "back.parquet", code=1), "no rows, and no LIKE")

        pq.write_table(pa.table({"f": [float("nan"), 0.5], "m": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64()))}), path("m.parquet"))
        convert("m.parquet", "m.jsonl")
        with open(path("m.jsonl")) as file:
            check([json.loads(line, parse_constant=lambda name: sys.exit(f"{name} is no JSON")) for line in file] == [{"f": None, "m": {"k": 1}}, {"f": 0.5, "m": None}], "NaN and maps")
        for values, names, word in (([[1], [2]], ["a", "a"], "two columns are named 'a'"), ([[b"\xff"]], ["raw"], "column 'raw': it has values of the type bytes"), ([[float("inf")]], ["f"], "infinite")):
            pq.write_table(pa.Table.from_arrays([pa.array(one) for one in values], names=names), path("bad.parquet"))
            # What is there stays, and nothing is left beside it.
            with open(path("bad.jsonl"), "w") as file:
                file.write("mine\n")
            check(word in convert("bad.parquet", "bad.jsonl", code=1), word)
            with open(path("bad.jsonl")) as file:
                check(file.read() == "mine\n" and sorted(name for name in os.listdir(folder) if name.startswith("bad.")) == ["bad.jsonl", "bad.parquet"], f"{word}: files that are there")
        os.symlink("t.parquet", path("link.parquet"))
        for like in ("t.parquet", "link.parquet"):
            check("it is read too" in convert("m.jsonl", "t.parquet", like, code=1), like)
        check("Usage" in convert("a.csv", "b.jsonl", code=1) and "Usage" in convert("a.parquet", "b.csv", "c.parquet", code=1), "usage")


if __name__ == "__main__":
    main()
