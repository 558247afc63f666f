#!/usr/bin/env bash
# Installs the Debian packages that flexgen builds with, if any is missing, and builds xgrammar, which Debian does not have. Says what it installs.
set -euo pipefail

packages=(
  build-essential cmake ninja-build pkg-config
  libdnnl-dev libhwy-dev liburing-dev nlohmann-json3-dev libcli11-dev libtomlplusplus-dev libcpp-httplib-dev libspdlog-dev libfmt-dev
  libpcre2-dev libutf8proc-dev libxxhash-dev zlib1g-dev libzstd-dev coinor-libclp-dev libgtest-dev libgmock-dev libbenchmark-dev python3
  libopenmpi-dev openmpi-bin
)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
# pip fetches xgrammar; any pip of this machine will do.
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
build_xgrammar() { "$(dirname "$0")/install_xgrammar.sh" "${XDG_CACHE_HOME:-$HOME/.cache}/flexgen/xgrammar"; }
if [ ${#missing[@]} -eq 0 ]; then
  build_xgrammar
  exit
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || {
    echo "flexgen needs these Debian packages: ${missing[*]}" >&2
    echo "Run as root: apt-get install ${missing[*]}" >&2
    exit 1
  }
  as_root=(sudo)
fi
echo "Installing with apt: ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
build_xgrammar
