#!/usr/bin/env python3
"""Converts between Parquet and the tables that flexgen map reads and writes, by the names' endings: .parquet to .jsonl or .csv, and back. In batches of rows. Needs PyPI pyarrow.

Usage: parquet_table.py FROM TO"""

import datetime
import decimal
import json
import sys

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

BATCH_ROWS = 10_000


def plain(value):
    """What JSON has no form for, as a text."""
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, datetime.timedelta)):
        return str(value)
    raise TypeError(f"a column has values of the type {type(value).__name__}, which neither JSON nor CSV can hold")


def from_parquet(source, target):
    file = pq.ParquetFile(source)
    if target.endswith(".csv"):
        with pyarrow.csv.CSVWriter(target, file.schema_arrow) as out:
            for batch in file.iter_batches(BATCH_ROWS):
                out.write_batch(batch)
        return
    with open(target, "w", encoding="utf-8") as out:
        for batch in file.iter_batches(BATCH_ROWS):
            for row in batch.to_pylist():
                out.write(json.dumps(row, ensure_ascii=False, default=plain) + "\n")


def to_parquet(source, target):
    # Types go by the first block of the file, as Arrow has it.
    reader = pyarrow.csv.open_csv(source, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)) if source.endswith(".csv") else pyarrow.json.open_json(source)
    with pq.ParquetWriter(target, reader.schema) as out:
        for batch in reader:
            out.write_batch(batch)


def main():
    if len(sys.argv) != 3 or not any(sys.argv[i].endswith(".parquet") and sys.argv[3 - i].endswith((".jsonl", ".csv")) for i in (1, 2)):
        sys.exit(__doc__)
    try:
        (from_parquet if sys.argv[1].endswith(".parquet") else to_parquet)(sys.argv[1], sys.argv[2])
    except (OSError, TypeError, pa.ArrowException) as error:
        sys.exit(f"parquet_table.py: {sys.argv[1]}: {error}")


if __name__ == "__main__":
    main()
