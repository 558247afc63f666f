#!/usr/bin/env bash
# Installs the library into a clean prefix, builds examples/hello_engine.cc against it as a program of others would, and asks it what the command line is asked: the answers are the same.
# Usage: tests/library.sh BUILD_FOLDER FLEXGEN_BINARY
set -euo pipefail
build=$1
flexgen=$2
source=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "library: $*" >&2; exit 1; }
cached() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"; }

DESTDIR=$work/stage cmake --install "$build" --component library --prefix /opt/flexgen >/dev/null
[ -z "$(find "$work/stage" -path '*/bin/*' -o -name '*_test*' -o -name 'test_*')" ] || fail "more than the library was installed"

flags=()
for sanitizer in $(cached FLEXGEN_SANITIZE | tr ';' ' '); do flags+=("-fsanitize=$sanitizer"); done
mkdir "$work/project"
cp "$source"/examples/{CMakeLists.txt,hello_engine.cc} "$work/project"
cmake -S "$work/project" -B "$work/build" -G Ninja -DCMAKE_PREFIX_PATH="$work/stage/opt/flexgen" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS="${flags[*]}" \
  -DCMAKE_CXX_COMPILER="$(cached CMAKE_CXX_COMPILER)" -DCMAKE_CXX_COMPILER_LAUNCHER="$(cached CMAKE_CXX_COMPILER_LAUNCHER)" >"$work/log" 2>&1 || { cat "$work/log"; fail "find_package(flexgen) fails"; }
cmake --build "$work/build" >"$work/log" 2>&1 || { cat "$work/log"; fail "hello_engine.cc does not build against the installed library"; }
if grep -rlF -e "$source" -e "$build" "$work/stage/opt/flexgen/lib" --include=*.cmake; then fail "these name folders of the build"; fi

prompts=($'dated Sep 7, 2016 | amount due EUR 212.84 | by Rokar Office | paid | Inv. 427050\n=>' $'dated 18 Jul 2018 | Sum: GBP 29,967.75 | Vadancor Cargo AG | inv no 7869-686\n=>')
"$work/build/hello_engine" "$source/demo/model" "${prompts[@]}" >"$work/answers" || fail "hello_engine fails"
for number in 1 2; do
  expected=$("$flexgen" generate --model "$source/demo/model" --planner first-rule --temperature 0 --max-tokens 96 "${prompts[number - 1]}")
  [ -n "$expected" ] || fail "flexgen generate gives no answer"
  grep -qxF -- "$number:$expected" "$work/answers" || fail "answer $number: '$(cat "$work/answers")', not '$expected'"
done
"$work/build/hello_engine" "$work/nothing" prompt >/dev/null 2>"$work/log" && fail "a model that is not there is no error"
grep -q nothing "$work/log" || fail "the error names no folder: $(cat "$work/log")"
echo "library: hello_engine gives the command line's answers"
