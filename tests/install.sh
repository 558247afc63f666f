#!/usr/bin/env bash
# Installs into a clean prefix, and uses what lies there: the program, its man pages, the completions under bash. Usage: tests/install.sh BUILD_FOLDER
set -euo pipefail
build=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "install: $*" >&2; exit 1; }

DESTDIR=$work cmake --install "$build" --component program --prefix /opt/flexgen >/dev/null
prefix=$work/opt/flexgen
[ "$(find "$work" -mindepth 1 -maxdepth 1)" = "$work/opt" ] || fail "something lies outside of the prefix"
"$prefix/bin/flexgen" --version | grep -q '^flexgen ' || fail "the installed program does not run"

pages=("$prefix"/share/man/man1/flexgen*.1)
commands=$("$prefix/bin/flexgen" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z-]*\) .*/\1/p')
[ ${#pages[@]} -eq $(($(wc -w <<<"$commands") + 1)) ] || fail "${#pages[@]} man pages for: $commands"
for page in "${pages[@]}"; do
  if command -v groff >/dev/null; then
    complaints=$(groff -man -Tutf8 -ww -z "$page" 2>&1) || fail "groff refuses $page"
    [ -z "$complaints" ] || fail "groff on $page: $complaints"
  fi
  if command -v mandoc >/dev/null; then
    complaints=$(mandoc -T lint -W warning "$page" | grep -v 'missing date\|outdated mandoc.db' || true)
    [ -z "$complaints" ] || fail "mandoc on $page: $complaints"
  fi
done
command -v groff >/dev/null || command -v mandoc >/dev/null || echo "install: neither groff nor mandoc: the pages were not rendered"

# completions WORD...: what bash offers for the last word.
completions() {
  bash -c 'source "$1"; shift; COMP_WORDS=(flexgen "$@"); COMP_CWORD=$#; _flexgen; printf "%s\n" "${COMPREPLY[@]}"' bash "$prefix/share/bash-completion/completions/flexgen" "$@"
}
expect() {
  local wanted=$1
  shift
  completions "$@" | grep -qx -- "$wanted" || fail "bash offers '$(completions "$@" | tr '\n' ' ')' for '$*', not $wanted"
}
expect run-batch run
expect --cpu-memory run-batch --cpu
expect cuda run-batch --backend c
expect int4 plan --kv-cache-dtype int
expect generate help gen
expect fish completion f
touch "$work/some.jsonl"
expect "$work/some.jsonl" run-batch --input "$work/so"
completions run-batch --threads '' | grep -q . && fail "bash offers something for a number"
for shell in zsh fish; do
  file=$(ls "$prefix"/share/$shell/*/*flexgen*)
  grep -q -- 'cpu-memory' "$file" || fail "$file knows no --cpu-memory"
  if command -v $shell >/dev/null; then $shell -n "$file" || fail "$shell cannot read $file"; fi
done
echo "install: ${#pages[@]} man pages, completions for bash, zsh and fish"
