#!/usr/bin/env bash
# Runs a command inside a memory cgroup (v1 or v2) of a given size: page cache and all. Needs root.
# Usage: bench/memory_cap.sh BYTES COMMAND...
set -euo pipefail
bytes=$1
shift
name=flexgen-cap-$$
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
  group=/sys/fs/cgroup/$name
  mkdir "$group"
  echo "$bytes" >"$group/memory.max"
  echo 0 >"$group/memory.swap.max" 2>/dev/null || true
else
  group=/sys/fs/cgroup/memory/$name
  mkdir "$group"
  echo "$bytes" >"$group/memory.limit_in_bytes"
fi
# A signal that ends this script as well as the command may reach it first.
cleanup() {
  for _ in {1..50}; do
    rmdir "$group" 2>/dev/null && break
    sleep 0.1
  done
}
trap cleanup EXIT
bash -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$group" "$@"
