#!/usr/bin/env bash
# Formats all C++ and CUDA files that git tracks, or those that are named, by .clang-format. Usage: tools/format.sh [FILE...]
set -euo pipefail
cd "$(dirname "$0")/.."
format=$(command -v clang-format-14 || command -v clang-format) || { echo "format.sh: needs clang-format 14 (apt-get install clang-format-14)" >&2; exit 1; }
"$format" --version | grep -q ' 14\.' || { echo "format.sh: $("$format" --version), where 14 is wanted, as others set some lines otherwise (apt-get install clang-format-14)" >&2; exit 1; }
if [ $# -eq 0 ]; then
  git ls-files -z '*.cc' '*.h' '*.cu'
else
  printf '%s\0' "$@"
fi | xargs -0 -r -n 16 -P "$(nproc)" "$format" -i --style=file
