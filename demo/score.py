#!/usr/bin/env python3
"""Compares answers in the OpenAI batch output format with the expected fields; fails below --at-least percent of fields.

    python3 demo/score.py answers.jsonl expected.jsonl
"""
import argparse
import json
import sys


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("answers")
    parser.add_argument("expected")
    parser.add_argument("--at-least", type=float, default=95.0)
    args = parser.parse_args()
    answers = {}
    with open(args.answers) as lines:
        for line in lines:
            record = json.loads(line)
            if record.get("error") is None and record["response"]["status_code"] == 200:
                answers[record["custom_id"]] = record["response"]["body"]["choices"][0]["text"]
    fields = fields_right = lines_right = count = 0
    with open(args.expected) as lines:
        for line in lines:
            expected = json.loads(line)
            count += 1
            try:
                got = json.loads(answers.get(expected["custom_id"], ""))
            except json.JSONDecodeError:
                got = {}
            right = sum(isinstance(got, dict) and got.get(k) == v for k, v in expected["fields"].items())
            fields += len(expected["fields"])
            fields_right += right
            lines_right += right == len(expected["fields"])
    percent = 100.0 * fields_right / max(fields, 1)
    print(f"fields right: {fields_right} of {fields} ({percent:.2f}%), whole lines right: {lines_right} of {count}")
    return 0 if percent >= args.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
