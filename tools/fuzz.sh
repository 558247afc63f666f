#!/usr/bin/env bash
# Runs each fuzz target for SECONDS (default 60) with libFuzzer under AddressSanitizer. Ends non-zero at a finding.
# Usage: tools/fuzz.sh [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
if ! command -v clang++ >/dev/null; then
  echo "Installing with apt: clang"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends clang libclang-rt-14-dev >/dev/null
fi
cmake --preset fuzz >/dev/null
targets=(safetensors_fuzz tokenizer_fuzz template_fuzz batch_line_fuzz csv_fuzz)
cmake --build --preset fuzz --target "${targets[@]}"
for target in "${targets[@]}"; do
  corpus=build/fuzz/corpus/$target
  mkdir -p "$corpus"
  echo "== $target for $seconds s"
  build/fuzz/src/"$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 \
    -artifact_prefix="$corpus-" "$corpus" 2>&1 | tail -n 12
done
echo "no findings"
