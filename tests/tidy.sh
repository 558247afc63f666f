#!/usr/bin/env bash
# clang-tidy with the checks of .clang-tidy; skipped (77) where version 14 is missing. Files of a room are read several at a time, as they are compiled: what they include is read once.
# Without --all: the rooms of a fixed slice and, of the files that were changed since origin/main, the first ten units. With it: all but tests and benchmarks.
# Usage: tests/tidy.sh SOURCE_DIR BUILD_FOLDER [--all]
set -euo pipefail
source=$(realpath "$1")
mkdir -p "$2/tidy"
build=$(realpath "$2/tidy")
all=${3:-}
slice='^src/(base|tensor|memory|schedule|plan)/'
skip() { echo "tidy: skipped, as $*"; exit 77; }
tidy=$(command -v clang-tidy-14 || command -v clang-tidy) || skip "there is no clang-tidy (apt-get install clang-tidy-14)"
"$tidy" --version | grep -q ' 14\.' || skip "clang-tidy is not version 14 (apt-get install clang-tidy-14)"

# It must be able to fail.
mkdir -p "$build/src/base"
cat >"$build/src/base/spoilt.cc" <<'CPP'
#include <string>
#include <utility>
std::string twice(std::string text) {
  std::string moved = std::move(text);
  return moved + text;
}
CPP
if "$tidy" --config-file="$source/.clang-tidy" --quiet "$build/src/base/spoilt.cc" -- -std=c++20 >/dev/null 2>&1; then echo "tidy: a text is used after it was moved, and that is not found"; exit 1; fi

cmake -S "$source" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DFLEXGEN_CUDA=OFF -DFLEXGEN_PCH=OFF -DFLEXGEN_UNITY=ON >"$build/configure.log" 2>&1 || { cat "$build/configure.log"; exit 1; }
changed=$(cd "$source" && git diff --name-only "$(git merge-base HEAD origin/main 2>/dev/null || echo HEAD)" -- 'src/*.cc' 2>/dev/null || true)
# What is read: whole units of compilation that hold a wanted file, each with the files in it.
units=$(ALL=$all SLICE=$slice CHANGED=$changed python3 - "$source" "$build/compile_commands.json" <<'PYTHON'
import json, os, re, sys

source, commands = sys.argv[1:]
changed = set(os.environ["CHANGED"].split())
left = 10
for command in json.load(open(commands)):
    unit = command["file"]
    held = re.findall(r'#include "(.*)"', open(unit).read()) if "/Unity/" in unit else [unit]
    held = [os.path.relpath(path, source) for path in held]
    if any(re.search(r"_(test|bench|fuzz)\.cc$|\.cu$", path) for path in held):
        continue
    wanted = os.environ["ALL"] or any(re.search(os.environ["SLICE"], path) for path in held)
    if not wanted and left > 0 and any(path in changed for path in held):
        wanted = True
        left -= 1
    if wanted:
        print(unit)
PYTHON
)
[ "$(wc -l <<<"$units")" -ge 5 ] || { echo "tidy: only these are to be read: $units"; exit 1; }

check() {
  local log
  log=$("$tidy" -p "$build" --config-file="$source/.clang-tidy" --quiet --extra-arg=-Wno-error --extra-arg=-w "$1" 2>/dev/null) || { printf '%s\n' "$log"; return 1; }
}
export -f check
export tidy build source
# Each finding once: a header is read by several units.
if ! xargs -P "$(nproc)" -I{} bash -c 'check {}' <<<"$units" >"$build/findings"; then
  awk '/: (error|warning): /{shown = !seen[$0]++} shown' "$build/findings"
  echo "tidy: $(grep -E ': (error|warning): ' "$build/findings" | sort -u | wc -l) findings; what is meant as it is gets // NOLINT(check): why"
  exit 1
fi
echo "tidy: $(wc -l <<<"$units") units of compilation"
