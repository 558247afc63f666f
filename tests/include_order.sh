#!/usr/bin/env bash
# Checks that includes point upward in the list of rooms: a room may include itself and the rooms before it.
# Usage: include_order.sh SOURCE_DIR
set -euo pipefail
cd "$1/src"
rooms=$(sed -n 's/^ *flexgen_room(NAME \([a-z]*\).*/\1/p' CMakeLists.txt | uniq)
[ "$(wc -w <<<"$rooms")" -ge 12 ] || { echo "rooms not found in src/CMakeLists.txt"; exit 1; }
allowed=""
failed=0
for room in $rooms; do
  allowed="$allowed $room"
  while IFS=: read -r file line include; do
    target=$(sed -E 's/.*"([a-z_]+)\/.*/\1/' <<<"$include")
    if ! grep -qw "$target" <<<"$allowed"; then
      echo "src/$file:$line: $room may not include $target"
      failed=1
    fi
  done < <(grep -rnE '^#include "[a-z_]+/' "$room" || true)
done
# CUDA and MPI stay in their own rooms.
if grep -rnE '#include <(cuda|cublas|cudnn|nccl|mpi)' . | grep -vE '^\./(backend/cuda|net/mpi)/'; then failed=1; fi
# Threads are WorkerTeam's: OpenMP's would spin beside them.
if grep -rnE '#pragma omp|omp_get' .; then failed=1; fi
exit $failed
