#!/usr/bin/env bash
# The long forms of the tests that kill, stop and feed rubbish to a built flexgen: torture.sh FLEXGEN_BINARY [SEED]. All four run, whatever the others say; the last line sums up.
set -uo pipefail
binary=$1 seed=${2:-$(date +%s)} source=$(cd "$(dirname "$0")/.." && pwd)
summary=() failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

run() {
  echo "== $*"
  python3 "$source/tests/$1" "$binary" "$source" --seed "$seed" "${@:2}" 2>&1 | tee "$log"
  case ${PIPESTATUS[0]} in
    0) summary+=("$1 passed") ;;
    77) summary+=("$1 was skipped") ;;
    *) summary+=("$1 FAILED") failed=1 ;;
  esac
}

run torture_checkpoints.py --count 3000
run torture_lines.py --count 2000
run kill_resume.py --kills 240
run ranks.py --kills 60
line="torture (seed $seed):"
for part in "${summary[@]}"; do line+=" $part;"; done
echo "${line%;}"
exit $failed
