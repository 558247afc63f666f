#!/usr/bin/env bash
# Checks that includes go one way: from room to room, and from file to file (include_order.py); and that some headers and pragmas stay in their rooms.
# Usage: include_order.sh SOURCE_DIR
set -euo pipefail
failed=0
python3 "$(dirname "$0")/include_order.py" "$1" || failed=1
cd "$1/src"
# CUDA and MPI stay in their own rooms.
if grep -rnE '#include <(cuda|cublas|cudnn|nccl|mpi)' . | grep -vE '^\./(backend/cuda|net/mpi)/'; then failed=1; fi
# Threads are WorkerTeam's: OpenMP's would spin beside them.
if grep -rnE '#pragma omp|omp_get' .; then failed=1; fi
exit $failed
