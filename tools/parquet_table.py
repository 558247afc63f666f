#!/usr/bin/env python3
"""Converts between Parquet and the tables that flexgen map reads and writes, by the names' endings: .parquet to .jsonl or .csv, and back. In batches of rows. Needs PyPI pyarrow.

Usage: parquet_table.py FROM TO.parquet [LIKE.parquet]
       parquet_table.py FROM.parquet TO

Dates, times and decimals become texts, NaN becomes null. On the way back columns get the types that they have in LIKE.parquet; without it, and where LIKE has them not,
Arrow guesses them by the first block of the file: texts that look like numbers or dates become these then."""

import datetime
import decimal
import json
import math
import os
import sys

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

BATCH_ROWS = 10_000
BLOCK_BYTES = 65 << 20  # a row must fit, and flexgen map takes rows of 64 MiB


def plain(value):
    """As JSON has it; what it has no form for, as a text."""
    if isinstance(value, float):
        if math.isinf(value):
            raise TypeError("it has an infinite number, which JSON cannot hold; write .csv")
        return None if math.isnan(value) else value
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, datetime.timedelta)):
        return str(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(f"it has values of the type {type(value).__name__}, which neither JSON nor CSV can hold")


def plain_row(row):
    for name, value in row.items():
        try:
            row[name] = plain(value)
        except TypeError as error:
            raise TypeError(f"column '{name}': {error}") from error
    return row


def counts_nanoseconds(kind):
    return kind == pa.time64("ns") or (pa.types.is_timestamp(kind) and kind.unit == "ns")


def with_nanoseconds(column):
    """As texts, where Python's own types have no nanoseconds."""
    return column.cast(pa.string()) if counts_nanoseconds(column.type) else column


def from_parquet(source, target):
    file = pq.ParquetFile(source)
    names = file.schema_arrow.names
    for name in names:
        if names.count(name) > 1:
            raise TypeError(f"two columns are named '{name}'; rename one")
    if target.endswith(".csv"):
        with pyarrow.csv.CSVWriter(target, file.schema_arrow) as out:
            for batch in file.iter_batches(BATCH_ROWS):
                out.write_batch(batch)
        return
    with open(target, "w", encoding="utf-8") as out:
        for batch in file.iter_batches(BATCH_ROWS):
            batch = pa.record_batch([with_nanoseconds(column) for column in batch.columns], batch.schema.names)
            for row in batch.to_pylist(maps_as_pydicts="strict"):
                out.write(json.dumps(plain_row(row), ensure_ascii=False, allow_nan=False) + "\n")


def as_read(kind, within=False):
    """The type in which Arrow reads from JSON what was written of values of this type; None: it guesses. `within`: in a list or an object."""
    if pa.types.is_map(kind) or pa.types.is_duration(kind) or pa.types.is_binary(kind) or (within and pa.types.is_time(kind)):
        return None
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return pa.string()
    if pa.types.is_dictionary(kind):
        return as_read(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        item = as_read(kind.value_type, True)
        return pa.list_(item) if item else None
    if pa.types.is_struct(kind):
        fields = [(field.name, as_read(field.type, True)) for field in kind]
        return pa.struct(fields) if all(inner for _, inner in fields) else None
    return pa.float32() if pa.types.is_float16(kind) else kind


def nanoseconds_of(time):
    hours, minutes, seconds = time.split(":")
    return (int(hours) * 60 + int(minutes)) * 60 * 10**9 + int(decimal.Decimal(seconds) * 10**9)


def of_kind(column, kind):
    if pa.types.is_time(kind) and pa.types.is_string(column.type):  # which Arrow does not cast
        read = nanoseconds_of if counts_nanoseconds(kind) else datetime.time.fromisoformat
        return pa.array([value and read(value) for value in column.to_pylist()], kind)
    return column.cast(kind)


def to_parquet(source, target, like=""):
    wanted = {field.name: field.type for field in pq.read_schema(like)} if like else {}
    read = {name: as_read(kind) for name, kind in wanted.items() if as_read(kind)}
    if source.endswith(".csv"):
        read = {name: kind if pa.types.is_dictionary(wanted[name]) else wanted[name] for name, kind in read.items() if not pa.types.is_nested(kind)}
        convert = pyarrow.csv.ConvertOptions(column_types=read)
        def opened(ignores):
            return pyarrow.csv.open_csv(source, pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES), pyarrow.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=ignores), convert)
        reader = opened(True)
        if len(reader.schema) == 1:  # an empty line is a row then
            reader = opened(False)
    elif os.path.getsize(source) == 0:  # a table without rows, of which Arrow reads none
        if not like:
            raise ValueError("it has no rows, so nothing tells its columns; give LIKE.parquet")
        return pq.write_table(pq.read_schema(like).empty_table(), target)
    else:
        options = pyarrow.json.ParseOptions(explicit_schema=pa.schema(list(read.items())))
        reader = pyarrow.json.open_json(source, pyarrow.json.ReadOptions(block_size=BLOCK_BYTES), options)
    schema = pa.schema([(field.name, wanted[field.name] if field.name in read else field.type) for field in reader.schema])
    with pq.ParquetWriter(target, schema) as out:
        for batch in reader:
            out.write_batch(pa.record_batch([of_kind(column, field.type) for column, field in zip(batch.columns, schema)], schema))


def main():
    names = sys.argv[1:]
    kinds = [name.rsplit(".", 1)[-1] for name in names]
    back = kinds[:2] in (["jsonl", "parquet"], ["csv", "parquet"]) and len(names) <= 3
    if not back and kinds not in (["parquet", "jsonl"], ["parquet", "csv"]):
        sys.exit(__doc__)
    source, target, *like = names
    for read in (source, *like):
        if os.path.exists(read) and os.path.exists(target) and os.path.samefile(read, target):
            sys.exit(f"parquet_table.py: {target}: it is read too, so nothing would be left of it; give another name")
    # It takes its place whole, or what is there stays.
    target = os.path.realpath(target)
    made = f"{target}.{os.getpid()}.tmp.{kinds[1]}"
    try:
        open(made, "xb").close()
        try:
            to_parquet(source, made, *like) if back else from_parquet(source, made)
            os.replace(made, target)
        except BaseException:
            os.remove(made)
            raise
    except (OSError, TypeError, ValueError, pa.ArrowException) as error:
        sys.exit(f"parquet_table.py: {source}: {error}")


if __name__ == "__main__":
    main()
