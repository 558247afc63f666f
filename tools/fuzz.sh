#!/usr/bin/env bash
# Runs each fuzz target (src/**/*_fuzz.cc), or those that are named, for SECONDS (default 60) with libFuzzer under AddressSanitizer. Ends non-zero at a finding.
# What was found worth keeping lies in build/fuzz/corpus, and the next run begins with it.
# Usage: tools/fuzz.sh [SECONDS [TARGET ...]]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
packages=(clang libclang-rt-14-dev libomp-dev)
if ! clang++ -fsanitize=fuzzer,address -fopenmp -x c++ -o /dev/null - <<<'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' 2>/dev/null; then
  echo "Installing with apt: ${packages[*]}"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi
targets=("${@:2}")
if [ ${#targets[@]} -eq 0 ]; then
  mapfile -t targets < <(find src -name '*_fuzz.cc' -printf '%f\n' | sed 's/\.cc$//' | sort)
fi
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --target "${targets[@]}"
for target in "${targets[@]}"; do
  corpus=build/fuzz/corpus/$target
  mkdir -p "$corpus"
  echo "== $target for $seconds s"
  build/fuzz/src/"$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 \
    -artifact_prefix="$corpus-" "$corpus" 2>&1 | tail -n 12
done
echo "no findings"
