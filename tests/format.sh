#!/usr/bin/env bash
# Checks that all C++ and CUDA files that git tracks are as .clang-format has them; skipped (77) where clang-format 14 is missing. Usage: tests/format.sh SOURCE_DIR
set -euo pipefail
cd "$1"
skip() { echo "format: skipped, as $*"; exit 77; }
format=$(command -v clang-format-14 || command -v clang-format) || skip "there is no clang-format (apt-get install clang-format-14)"
"$format" --version | grep -q ' 14\.' || skip "there is $("$format" --version) and not 14 (apt-get install clang-format-14)"
git rev-parse --is-inside-work-tree >/dev/null 2>&1 || skip "this is no git checkout"

# It must be able to fail.
if "$format" --style=file --assume-filename=src/base/error.h --dry-run --Werror 2>/dev/null <<<'int  f( ) ;'; then echo "format: what is wrong is taken for right"; exit 1; fi

places() { "$format" --style=file --dry-run --Werror "$@" 2>&1 | sed -n 's/: error: code should be clang-formatted.*//p'; }
export -f places
export format
failed=$(git ls-files -z '*.cc' '*.h' '*.cu' | xargs -0 -n 16 -P "$(nproc)" bash -c 'found=$(places "$@"); printf "%s\n" "$found"' places | sed '/^$/d')
if [ -n "$failed" ]; then
  echo "format: these places are not as .clang-format has them; tools/format.sh formats:"
  head -n 50 <<<"$failed"
  exit 1
fi
echo "format: $(git ls-files '*.cc' '*.h' '*.cu' | wc -l) files"
