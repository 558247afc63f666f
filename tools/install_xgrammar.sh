#!/usr/bin/env bash
# Fetches the sources of xgrammar (the grammars of structured answers) by pip, checks their hash, and compiles them once into a static library:
# FOLDER/libxgrammar.a, with the headers in FOLDER/include. Where there is no pip or no registry it says so; flexgen is then built without, and refuses grammars by name.
# Usage: install_xgrammar.sh FOLDER
set -euo pipefail

version=0.2.8
hash=8305646fd2b319d6c3003f51a1665e54cbbe9cba1fb636bc41d0b46434ccbb80
folder=$1
work=$folder.part
stamp="$version $hash 7"  # the number at the end: how it is compiled
[ "$(cat "$folder/stamp" 2>/dev/null)" = "$stamp" ] && exit 0

without() {
  echo "install_xgrammar.sh: $1; building without grammars (structured answers are refused)" >&2
  exit 0
}

rm -rf "$work"
mkdir -p "$work/pip"
if [ -n "${FLEXGEN_XGRAMMAR_SDIST:-}" ]; then
  cp "$FLEXGEN_XGRAMMAR_SDIST" "$work/xgrammar-$version.tar.gz"
else
  python3 -m pip --version >/dev/null 2>&1 || without "python3 has no pip, which fetches xgrammar $version"
  echo "Fetching xgrammar $version with pip"
  # pip asks the package's own build back end for its metadata before it keeps the archive; this one needs no tools.
  mkdir -p "$work/pip/scikit_build_core"
  cat >"$work/pip/scikit_build_core/build.py" <<'PYTHON'
import os


def prepare_metadata_for_build_wheel(folder, config_settings=None):
    name = "xgrammar-VERSION.dist-info"
    os.makedirs(os.path.join(folder, name))
    with open(os.path.join(folder, name, "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\nName: xgrammar\nVersion: VERSION\n")
    return name
PYTHON
  sed -i "s/VERSION/$version/" "$work/pip/scikit_build_core/build.py"
  touch "$work/pip/scikit_build_core/__init__.py"
  echo "xgrammar==$version --hash=sha256:$hash" >"$work/pip/requirements.txt"
  PYTHONPATH="$work/pip" timeout 120 python3 -m pip download --quiet --no-deps --no-build-isolation --no-binary xgrammar --require-hashes \
    -r "$work/pip/requirements.txt" -d "$work" >"$work/pip/log" 2>&1 || { tail -n 5 "$work/pip/log" >&2; without "pip could not fetch xgrammar $version"; }
fi
archive=$work/xgrammar-$version.tar.gz
echo "$hash  $archive" | sha256sum --check --quiet || { echo "install_xgrammar.sh: $archive is not the archive that flexgen was tested with" >&2; exit 1; }
tar -xzf "$archive" -C "$work"
# Patterns with optional parts or {n,}, texts of a bounded length, and what comes before a class with characters beyond ASCII let through what does not match or is no JSON; decimals of enum and const had 17 digits;
# ranges that differ in their bounds alone were written out one by one, and patterns of schemas with large ones to see whether they can be read.
patch --quiet --directory "$work/xgrammar-$version" --strip 1 <"$(dirname "$0")/xgrammar.patch"

# As two files instead of 28: most of the time went into the same headers. minimax_m3.cc stands apart, as it names a constant as another file does.
sources=$work/xgrammar-$version
for file in "$sources"/cpp/*.cc "$sources"/cpp/converter_ext/*.cc "$sources"/cpp/support/*.cc; do
  case $file in
    */minimax_m3.cc) part=match ;;
    */json_schema_converter.cc | */structural_tag.cc | */lark_converter.cc | */converter_ext/* | */grammar_parser.cc | */grammar_printer.cc | */regex_converter.cc | */grammar_builder.cc) part=convert ;;
    *) part=match ;;
  esac
  echo "#include \"${file#"$work"/}\"" >>"$work/$part.cc"
done
echo "Compiling xgrammar $version (about a minute of a core, once)"
flags=(-std=c++17 -O1 -DNDEBUG -w -fPIC -DXGRAMMAR_ENABLE_CPPTRACE=0 -DXGRAMMAR_ENABLE_INTERNAL_CHECK=0 -DXGRAMMAR_LOG_CUSTOMIZE=1
  -I"$work" -I"$sources/cpp" -I"$sources/include" -I"$sources/3rdparty/picojson" -I"$sources/3rdparty/dlpack/include")
# As in CMakeLists.txt: GCC is spared freeing memory over and over.
${CXX:-c++} --version | grep -q 'Free Software' && flags+=(--param ggc-min-expand=1000 --param ggc-min-heapsize=1048576)
${CXX:-c++} "${flags[@]}" -c "$work/convert.cc" -o "$work/convert.o" &
${CXX:-c++} "${flags[@]}" -c "$work/match.cc" -o "$work/match.o"
wait $!
ar rcs "$work/libxgrammar.a" "$work/convert.o" "$work/match.o"
mkdir "$work/include"
cp -r "$sources/include/xgrammar" "$sources/3rdparty/dlpack/include/dlpack" "$work/include/"
cp "$sources/LICENSE" "$sources/NOTICE" "$work/"
rm -rf "$sources" "$work/pip" "$work"/*.cc "$work"/*.o
echo "$stamp" >"$work/stamp"
rm -rf "$folder"
mv "$work" "$folder"
