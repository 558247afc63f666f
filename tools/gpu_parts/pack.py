"""Packs programs with their libraries into one file, and what tests and the demo read into another, for machines that do not have the source either."""
import os
import shutil
import subprocess
import sys
import tempfile

import programs

LIMIT = 25_000_000
# Taken along apart, in case that machine's C library is older than this one's; where it is not, its own are used.
C_LIBRARY = ["ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "libgcc_s.so.1", "libstdc++.so.6", "libresolv.so.2"]
PEERS = ["flexgen==0.1.8"]  # FlexGen as its authors published it; what it imports beside is PyTorch, transformers, NumPy, attrs, tqdm
SCRIPTS = ["tools/gpu_check", "tools/gpu_parts", "bench/t4.json"]
READ = ["tests/fixtures/models", "demo"]
UNREAD = ("__pycache__", "quantized-*", "train_demo_model.py")  # by no part


def libraries_of(paths):
    """Name and path of every library that these programs load, those behind others included."""
    found = {}
    for path in paths:
        for line in subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout.splitlines():
            words = line.split()
            if "not found" in line:
                raise SystemExit(f"{path} needs {words[0]}, which is not here")
            if len(words) > 2 and words[1] == "=>":
                found[words[0]] = words[2]
            elif words and words[0].startswith("/") and "ld-linux" in words[0]:
                found[os.path.basename(words[0])] = words[0]
    return found


def copy_in(names, bundle):
    for name in names:
        source, copy = os.path.join(programs.ROOT, name), os.path.join(bundle, name)
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        if os.path.isdir(source):
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns(*UNREAD))
        else:
            shutil.copy(source, copy)


def stage_programs(bundle):
    for folder in ("src", "lib", "glibc"):
        os.makedirs(os.path.join(bundle, folder))
    built = [programs.path_in(programs.BUILD, name) for name in programs.NAMES]
    for name, path in zip(programs.NAMES, built):
        subprocess.run(["strip", "-o", programs.path_in(bundle, name), path], check=True)
    libraries = libraries_of(built)
    for name, path in libraries.items():
        if name not in C_LIBRARY:
            shutil.copy(os.path.realpath(path), os.path.join(bundle, "lib", name))
    for name in C_LIBRARY:  # all of it: the driver's library asks for parts that the programs do not
        path = libraries.get(name) or os.path.join(os.path.dirname(libraries["libc.so.6"]), name)
        shutil.copy(os.path.realpath(path), os.path.join(bundle, "glibc", name))
    copy_in(SCRIPTS, bundle)
    wheels = os.path.join(bundle, "wheels")
    if subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", wheels, *PEERS]).returncode != 0:
        print(f"without {' '.join(PEERS)}, which pip cannot get: the peers' parts need it there")
    with open(os.path.join(bundle, "commit"), "w") as out:
        out.write(subprocess.run(["git", "-C", programs.ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout)


def compress(stage, file):
    """Megabytes of the file. The programs share most of their code: a large window finds it."""
    with open(file, "wb") as out:
        tar = subprocess.Popen(["tar", "-C", stage, "--sort=name", "-cf", "-", "bundle"], stdout=subprocess.PIPE)
        subprocess.run(["xz", "--lzma2=preset=6,dict=128MiB", "-c"], stdin=tar.stdout, stdout=out, check=True)
        if tar.wait() != 0:
            raise SystemExit("tar failed")
    print(f"{file}: {os.path.getsize(file) / 1e6:.1f} MB")
    return os.path.getsize(file)


def pack(folder=None):
    # The programs find their libraries beside themselves (DT_RPATH, which holds for libraries' libraries too), the tests what they read in the folder that they run in.
    programs.compile_here(os.environ.get("FLEXGEN_CUDA_ARCHITECTURES", ""), "-DFLEXGEN_TEST_SOURCE_DIR=.", "-DCMAKE_BUILD_RPATH=$ORIGIN/lib;$ORIGIN/../lib",
                          "-DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags", "-DCMAKE_CUDA_FLAGS=-no-compress")  # xz makes less of code for GPUs that it finds as it is
    folder = os.path.abspath(folder or programs.STATE)
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory() as stage:
        stage_programs(os.path.join(stage, "bundle"))
        size = compress(stage, os.path.join(folder, "bundle.tar.xz"))
    with tempfile.TemporaryDirectory() as stage:
        copy_in(READ, os.path.join(stage, "bundle"))
        compress(stage, os.path.join(folder, "tree.tar.xz"))
    if size > LIMIT:
        print(f"bundle.tar.xz has more than {LIMIT / 1e6:.0f} MB")
        return 1
    return 0
