#!/usr/bin/env python3
"""Checks what includes what in src/. Usage: include_order.py SOURCE_DIR

Rooms: one includes itself and the rooms that it is linked with (DEPS in src/CMakeLists.txt, and theirs), all of which are listed before it.
Files: none includes, by whatever way, a file that includes it. X.h and X.cc count as one file; a .cc without a header of its name is one that nobody includes.
"""
import pathlib
import re
import sys

SOURCES = (".h", ".cc", ".cu")
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)


def rooms_of(text):
    """The rooms in their order, each with those that it may include."""
    may = {}
    for name, rest in re.findall(r"flexgen_room\(NAME (\w+)([^()]*)", text):
        below = re.findall(r"\bflexgen_(\w+)", rest)
        for other in below:
            if other not in may:
                sys.exit(f"src/CMakeLists.txt: {name} is linked with {other}, which is not listed before it")
        may[name] = {name}.union(*(may[other] for other in below))
    return may


def unit_of(file):
    return re.sub(r"\.\w+$", "", file)


def cycle_in(graph):
    """The files of one cycle, the first one again at the end; None if there is none."""
    done, path = set(), []

    def walk(unit):
        if unit in path:
            return path[path.index(unit):] + [unit]
        if unit in done:
            return None
        path.append(unit)
        for other in sorted(graph.get(unit, {})):
            if found := walk(other):
                return found
        path.pop()
        done.add(unit)
        return None

    for unit in sorted(graph):
        if found := walk(unit):
            return found
    return None


def problems_of(source):
    may = rooms_of((source / "CMakeLists.txt").read_text())
    problems = []
    files = {str(path.relative_to(source)): path for path in sorted(source.rglob("*")) if path.suffix in SOURCES}
    if len(may) < 12 or not files:
        return [f"{source}: rooms or files not found"]
    graph = {}  # unit -> units that it includes -> the file that says so
    for file, path in files.items():
        room = file.split("/")[0]
        text = path.read_text()
        for found in INCLUDE.finditer(text):
            target = found[1]
            line = text.count("\n", 0, found.start()) + 1
            if target.split("/")[0] not in may.get(room, ()):
                problems.append(f"src/{file}:{line}: {room} may not include {target}: it is not linked with that room (src/CMakeLists.txt)")
            if target in files and unit_of(target) != unit_of(file):
                graph.setdefault(unit_of(file), {}).setdefault(unit_of(target), f"src/{file}:{line}")
    if cycle := cycle_in(graph):
        problems.append("files include each other in a circle; take what they share into a file of its own:")
        problems += [f"  {graph[one][other]} includes {other}" for one, other in zip(cycle, cycle[1:])]
    return problems


def self_test():
    """A check that finds nothing says little, so it is shown a circle first."""
    assert cycle_in({"a": {"b": "", "c": ""}, "b": {"d": ""}, "c": {"d": ""}}) is None
    assert cycle_in({"a": {"b": ""}, "b": {"c": ""}, "c": {"b": ""}}) == ["b", "c", "b"]
    assert rooms_of("flexgen_room(NAME a DEPS x)\nflexgen_room(NAME b DEPS flexgen_a)")["b"] == {"a", "b"}


if __name__ == "__main__":
    self_test()
    found = problems_of(pathlib.Path(sys.argv[1]) / "src")
    print("\n".join(found), end="\n" if found else "")
    sys.exit(1 if found else 0)
