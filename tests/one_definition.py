#!/usr/bin/env python3
"""One definition of each name in the program: types, and functions and variables that are inline or templates, of which the linker silently takes one where two files outside of unnamed namespaces
have their own (GCC says so with -flto -Wodr alone, after a build of minutes).

Usage: one_definition.py SOURCE_DIR"""

import os
import re
import sys
import tempfile

from source_text import called_in, outer, parameters_of, parts_of, sources_in

MERGED = {"inline", "constexpr", "consteval", "template", "HWY_INLINE"}


def merged_of(head):
    """The name, and a function's parameters, of what the linker merges; None for anything else."""
    words = [token for _, token in outer(head)]
    if not MERGED & set(words) or {"static", "using", "friend", "concept"} & set(words):
        return None
    at = called_in(head)
    if at is not None:
        first = at
        while first >= 2 and head[first - 1] == "::":
            first -= 2
        template = " ".join(head[1:first]) if head[0] == "template" else ""
        return "".join(head[first : at + 1]) + " ".join(parameters_of(head)) + template
    # A constant that is not inline is each file's own.
    names = [token for token in (words[: words.index("=")] if "=" in words else words) if re.match(r"[A-Za-z_]", token)]
    return names[-1] if "inline" in words and len(names) > 1 else None


def definitions_of(text):
    """(line, qualified name, what it stands for if it is an alias) of all that is defined outside of unnamed namespaces."""
    for part in parts_of(text):
        if part.kind == "namespace" or any(around.kind != "namespace" or around.name == "" for around in part.around):
            continue
        alias = part.head[0] == "using" and "=" in part.head
        if part.kind == "type":
            name = part.name
        elif part.kind == "function" or (part.kind == "statement" and {"=", "{}"} & set(part.head)):
            name = part.head[1] if alias else merged_of(part.head)
        else:
            continue
        if name:
            yield part.first, "::".join([around.name for around in part.around if around.name] + [name]), " ".join(part.head) if alias else None


def compiled_together(paths):
    """Of a folder no_x/, which stands in for x/ where that cannot be built, one of the two is compiled. A program of its own shares no name with another one."""
    alone = [path for path in paths if "/no_" in path or re.search(r"_(fuzz|bench|main)\.\w+$", path)]
    return len(paths) > len(alone) + 1 or (len(paths) > 1 and not alone)


def find_twice(folder):
    found, files, failures = {}, 0, []
    for path, text in sources_in(folder):
        files += 1
        try:
            for line, defined, alias in definitions_of(text):
                found.setdefault(defined, {}).setdefault(path, (line, alias))
        except ValueError as error:
            failures.append(f"{path}: {error}")
    for defined, places in sorted(found.items()):
        aliases = {alias for _, alias in places.values()}
        # Aliases of two files that nobody includes name other types without harm.
        seen_together = None in aliases or (len(aliases) > 1 and any(path.endswith(".h") for path in places))
        if compiled_together(list(places)) and seen_together:
            failures.append(f"{defined} is defined in " + " and in ".join(f"{path}:{line}" for path, (line, _) in places.items()) + ": put one into an unnamed namespace, or name it otherwise")
    return files, len(found), failures


TWICE = ["struct Piece { int a; };", "class Piece final : public Base<int> {};", "enum class Piece : char { kA };", "template <> struct Piece<int> {};", "inline int piece(int a) { return a; }",
         "template <typename T>\nT piece(T a) { return a; }", "inline constexpr int kPiece = 3;", "inline const std::string kPiece{\"a\"};", "struct alignas(8) Piece { struct Inner { int x; }; };",
         "inline constexpr int kPieces[] = {1, 2};", "inline bool operator==(Piece a, Piece b) { return true; }"]
ONCE = ["namespace { struct Piece { int a; }; }", "namespace FILE { struct Piece { int a; }; }", "struct Piece;", "// struct Piece {", 'const char* text_FILE = "struct Piece {";',
        "void FILE() { struct Piece { int a; }; }", "static inline int piece() { return 1; }", "struct FILE_ { struct Piece { int a; }; };", "constexpr int kPiece = 1'000;", "struct Piece piece_FILE() { return {}; }",
        "#define PIECE \\\n  struct Piece {\n", 'auto text_FILE = R"(struct Piece {)";', "template <typename T> struct Piece<T, FILE> {};", "using Piece = int;", "using Piece = FILE;",
        "inline int piece(FILE a) { return a; }", "FILE::FILE(int a) : b_{a}, c_(a) { struct Piece {}; }"]


def test_itself():
    for cases, expected in ((TWICE, True), (ONCE, False)):
        for case in cases:
            with tempfile.TemporaryDirectory() as folder:
                for name in ("a", "b"):
                    with open(os.path.join(folder, name + ".cc"), "w", encoding="utf-8") as file:
                        file.write("namespace flexgen {\n" + case.replace("FILE", name) + "\n}  // namespace flexgen\n")
                _, _, failures = find_twice(folder)
                if bool(failures) != expected:
                    sys.exit(f"one_definition.py: its own test fails: {case!r} gives {failures}")


def main():
    test_itself()
    files, names, failures = find_twice(os.path.join(sys.argv[1], "src"))
    if files < 300 or names < 300:
        sys.exit(f"one_definition.py: only {names} names in {files} files of {sys.argv[1]}/src")
    for failure in failures:
        print(failure)
    print(f"one_definition: {names} names in {files} files, {len(failures)} failures")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
