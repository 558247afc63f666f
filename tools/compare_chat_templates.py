#!/usr/bin/env python3
"""Compares chat templates with PyPI transformers' own environment of jinja2, on generated conversations.

    python3 tools/compare_chat_templates.py DIR --out CASES.json [--count 40] [--seed 1] [--list LIST.md]
    FLEXGEN_CHAT_CASES=CASES.json build/release/src/text_test --gtest_filter='*CasesFromOutside'

DIR holds templates (*.jinja, at any depth). The test fails where flexgen gives anything else than jinja2, an error included. --list writes their names and hashes.
"""
import argparse
import hashlib
import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from make_chat_fixtures import conversations, given, random_conversation, write_cases  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir")
    parser.add_argument("--out", required=True)
    parser.add_argument("--count", type=int, default=40, help="generated conversations a template")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--list")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    templates = {}
    for folder, _, files in sorted(os.walk(args.dir)):
        for file in sorted(files):
            if file.endswith(".jinja"):
                with open(os.path.join(folder, file), encoding="utf-8", newline="") as handle:
                    text = handle.read()
                templates.setdefault(text, os.path.relpath(os.path.join(folder, file), args.dir))
    made = [given(conversation, True) for _, conversation in conversations()] + [given(random_conversation(rng), rng.random() < 0.7) for _ in range(args.count)]
    write_cases(args.out, [({"template": text, "name": name}, text, variables) for text, name in templates.items() for variables in made])
    if args.list:
        with open(args.list, "w", encoding="utf-8") as file:
            for text, name in sorted(templates.items(), key=lambda item: item[1]):
                file.write("%s  %s\n" % (hashlib.sha256(text.encode()).hexdigest()[:16], name))


if __name__ == "__main__":
    main()
