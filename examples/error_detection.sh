#!/usr/bin/env bash
# Is there an error in a cell? CELLS with errors (100) and as many without, ten examples before each. Expected with SmolLM2-135M-Instruct: docs/figures.md.
# Usage: error_detection.sh FLEXGEN MODEL DATA [CELLS]   (DATA: a folder with hospital.csv and, as tid,attribute,correct_val, hospital_clean.csv)
set -euo pipefail
flexgen=$1 model=$2 data=$3 work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 - "$data" "$work" "${4:-100}" <<'PYTHON'
import csv, random, sys
data, work, count = *sys.argv[1:3], int(sys.argv[3])
clean = {(int(row["tid"]), row["attribute"]): row["correct_val"] for row in csv.DictReader(open(f"{data}/hospital_clean.csv"))}
cells = {"Yes": [], "No": []}
for tid, row in enumerate(csv.DictReader(open(f"{data}/hospital.csv"))):
    for name, value in row.items():
        if value and (tid, name) in clean:
            cells["No" if value == clean[tid, name] else "Yes"].append((name, value, "No" if value == clean[tid, name] else "Yes"))
for name, first, last in (("test", 0, count), ("train", count, 2 * count)):
    rows = [cell for kind in cells for cell in random.Random(0).sample(cells[kind], 2 * count)[first:last]]
    csv.writer(open(f"{work}/{name}.csv", "w", newline="")).writerows([("attribute", "value", "error"), *rows])
PYTHON
"$flexgen" map --model "$model" -i "$work/test.csv" -o "$work/found.csv" --cpu-memory 2GiB --prompt-template 'Is there an x spelling error in {{ attribute }}: {{ value }}?' \
  --examples "$work/train.csv" --shots 10 --balanced --choices Yes,No --answer-column error --positive-label Yes
