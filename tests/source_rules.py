#!/usr/bin/env python3
"""Rules that no compiler holds: a function has at most 100 lines, a constructor at most five parameters, and every type of a header has a sentence: directly before it, behind it on its line, or, where the file is
about it, in the comment that the file opens with. And nlohmann's parser is called where somebody looks for NUL bytes, which it takes for the end of a text. Python scripts are parsed, as no test starts those that measure. KNOWN are those that were there before the rules; a number that has fallen is written down here.

Usage: source_rules.py SOURCE_DIR"""

import os
import re
import sys

from source_text import called_in, outer, parameters_of, parts_of, sources_in

MOST_LINES = 100
MOST_PARAMETERS = 5
KNOWN_LONG = {"attend_as": 122}
JSON_READERS = ("io/checked_json.h", "io/checked_json.cc", "io/partial_json.h", "batch/line_json.cc", "batch/kept_record.cc", "text/jinja/json_values.cc")
KNOWN_WIDE = {"LineBroker": 9, "Batcher": 7, "SimulatedProcess": 7, "WatchedSteps": 8, "Timeline": 7, "CacheStore": 6, "Executor": 7, "Stager": 6}


def is_documented(part, lines, opening):
    before = lines[part.first - 2].strip() if part.first > 1 else ""
    return before.startswith(("//", "/*")) or before.endswith("*/") or "///<" in lines[part.opened - 1] or re.search(rf"\b{re.escape(part.name)}\b", opening) is not None


def opening_of(text):
    """The comment at the top of a file."""
    found = re.match(r"(?:#pragma once\n)?((?://[^\n]*\n)*)", text)
    return found[1]


def is_unnamed(part):
    return any(around.kind == "namespace" and around.name == "" for around in part.around)


def number_of_parameters(part):
    inside = parameters_of(part.head)[1:-1]
    if not inside:
        return 0
    commas, braces = 0, 0
    for _, token in outer(inside):
        braces += {"{": 1, "}": -1}.get(token, 0)
        commas += token == "," and braces == 0
    return 1 + commas


def is_constructor(part):
    if part.kind not in ("function", "statement") or not part.around or part.around[-1].kind != "type":
        return False
    at = called_in(part.head)
    return at is not None and part.head[at] == part.around[-1].name and "~" not in part.head[:at]


def is_free_to_parse(path):
    """Whether the file may call nlohmann's parser: a reader that looks for NUL bytes, or a test."""
    name = os.path.basename(path)
    return path.endswith(JSON_READERS) or "_test." in name or "_fuzz." in name or name.startswith("test_")


def failures_in(path, text):
    lines, opening = text.splitlines(), opening_of(text)
    for number, line in enumerate(lines, 1):
        if re.search(r"\b\w*[Jj]son::(parse|sax_parse|accept)\(", line) and not is_free_to_parse(path):
            yield f"{path}:{number}: this parser takes a NUL byte for the end of the text; call parse_json(), json_or_none() or parse_checked_json()"
    for part in parts_of(text):
        if part.kind == "function" and part.closed - part.opened + 1 > MOST_LINES:
            size = part.closed - part.opened + 1
            if size > KNOWN_LONG.get(part.name, 0):
                yield f"{path}:{part.first}: {part.name}() has {size} lines, more than {MOST_LINES}: cut it into functions that have a name"
        if is_constructor(part) and number_of_parameters(part) > MOST_PARAMETERS:
            count = number_of_parameters(part)
            if count > KNOWN_WIDE.get(part.around[-1].name, 0):
                yield f"{path}:{part.first}: the constructor of {part.around[-1].name} has {count} parameters, more than {MOST_PARAMETERS}: put those that belong together into a struct"
        if path.endswith(".h") and part.kind == "type" and not is_unnamed(part) and all(around.kind == "namespace" for around in part.around) and not is_documented(part, lines, opening):
            yield f"{path}:{part.first}: {part.name} has no sentence that says what it is (shapes, units, errors, which threads may call)"


SPOILT = [
    ("struct Piece {\n  int a;\n};", 1),
    ("/// A piece.\nstruct Piece {\n  int a;\n};", 0),
    ("enum class Side { kLeft, kRight };  ///< of a page", 0),
    ("namespace {\nstruct Piece {};\n}", 0),
    ("/// A piece.\nstruct Piece {\n  Piece(int a, int b, std::map<int, int> c, int d, int e, int f = g({1, 2}));\n};", 1),
    ("/// A piece.\nstruct Piece {\n  Piece(int a, int b, std::map<int, int> c, int d, int e = g({1, 2})) : a_{a} {}\n  int make(int a, int b, int c, int d, int e, int f);\n};", 0),
    ("inline auto f(const char* text) { return nlohmann::json::parse(text); }", 1),
    ("int f() {\n" + "  g();\n" * 99 + "}", 1),
    ("int f() {\n" + "  g();\n" * 98 + "}", 0),
]


def test_itself():
    for text, expected in SPOILT:
        found = list(failures_in("piece.h", "#pragma once\n// Pages.\n\nnamespace flexgen {\n\n" + text + "\n\n}\n"))
        if len(found) != expected:
            sys.exit(f"source_rules.py: its own test fails: {text[:60]!r} gives {found}")


def fault_of_script(path, text):
    try:
        compile(text, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"{path}:{error.lineno}: {error.msg}"
    return None


def scripts_in(root):
    for folder in ("bench", "docs", "tests", "tools"):
        for path, text in sources_in(os.path.join(root, folder), r"\.py$|^gpu_check$"):
            yield os.path.join(folder, path), text


def main():
    test_itself()
    if not fault_of_script("one.py", "help='a'b'") or fault_of_script("one.py", "import os"):
        sys.exit("source_rules.py: its own test of scripts fails")
    files, failures = 0, []
    for path, text in sources_in(os.path.join(sys.argv[1], "src")):
        files += 1
        failures += failures_in(path, text)
    if files < 300:
        sys.exit(f"source_rules.py: only {files} files in {sys.argv[1]}/src")
    scripts = list(scripts_in(sys.argv[1]))
    if len(scripts) < 20:
        sys.exit(f"source_rules.py: only {len(scripts)} scripts in {sys.argv[1]}")
    failures += filter(None, (fault_of_script(*script) for script in scripts))
    for failure in failures:
        print(failure)
    print(f"source_rules: {files} files, {len(scripts)} scripts, {len(failures)} failures")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
