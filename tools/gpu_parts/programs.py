"""The programs that are run: where they are, and how they are started where the C library is older than they are."""
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
STATE = os.path.join(ROOT, ".gpu_check")
BUILD = os.path.join(ROOT, "build", "gpu")
NAMES = ["flexgen", "gpu_probe", "gpu_shapes", "backend_test", "model_test", "engine_test", "gpu_bench", "gpu_block_bench"]


def path_in(folder, name):
    """CMake puts flexgen into the build's folder and the others below it."""
    return os.path.join(folder, name if name == "flexgen" else f"src/{name}")


def compile_here(architectures, *definitions):
    """`architectures`: empty for those of every build (cmake/cuda.cmake)."""
    wanted = [f"-DFLEXGEN_CUDA_ARCHITECTURES={architectures}"] if architectures else ["-U", "FLEXGEN_CUDA_ARCHITECTURES"]
    subprocess.run(["cmake", "-S", ROOT, "-B", BUILD, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DFLEXGEN_CUDA=ON", *wanted, "-DFLEXGEN_MPI=OFF", *definitions], check=True)
    subprocess.run(["cmake", "--build", BUILD, "--target", *NAMES], check=True)


class Kit:
    """Programs below `folder`, run from `tree`, which has tests/fixtures, demo and bench/t4.json."""

    def __init__(self, folder, tree):
        self.folder, self.tree = os.path.abspath(folder), os.path.abspath(tree)
        self.environment = dict(os.environ)
        self.cublas = self._find_cublas()
        self.commit = self._read("commit") or self._git("rev-parse", "--short", "HEAD")
        self.loader = []
        if os.path.isdir(os.path.join(self.folder, "glibc")) and not self._starts():
            self._use_own_c_library()

    def __getitem__(self, name):
        return path_in(self.folder, name)

    def _read(self, name):
        try:
            with open(os.path.join(self.folder, name)) as file:
                return file.read().strip()
        except OSError:
            return ""

    def _git(self, *words):
        done = subprocess.run(["git", "-C", self.tree, *words], capture_output=True, text=True)
        return done.stdout.strip()

    def _starts(self):
        return subprocess.run([self["flexgen"], "--version"], capture_output=True, env=self.environment).returncode == 0

    def _find_cublas(self):
        """Where pip brought the CUDA libraries, the loader does not know them. Returns the folder to look in, if it must be named."""
        known = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True).stdout if shutil.which("ldconfig") else ""
        folder = next((os.path.dirname(line.split()[-1]) for line in known.splitlines() if "libcublasLt.so." in line), "")
        if not folder:
            names = ["-name", "libcublasLt.so.13", "-o", "-name", "libcublasLt.so.12"]
            found = subprocess.run(["find", "/usr", "/opt", *sys.path[1:], "-xdev", *names], capture_output=True, text=True).stdout.split()
            folder = os.path.dirname(found[0]) if found else ""
            if folder:
                self.environment["LD_LIBRARY_PATH"] = folder + (":" + old if (old := self.environment.get("LD_LIBRARY_PATH")) else "")
        return folder

    def _use_own_c_library(self):
        """The programs become scripts that start them by the loader they were built with. The driver's library is where the system's cache says."""
        known = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True).stdout if shutil.which("ldconfig") else ""
        driver = next((os.path.dirname(line.split()[-1]) for line in known.splitlines() if "libcuda.so.1 " in line), "/usr/local/nvidia/lib64")
        libraries = ":".join(filter(None, [f"{self.folder}/glibc", f"{self.folder}/lib", self.cublas, driver]))
        for name in NAMES:
            program = self[name]
            if not os.path.exists(program) or os.path.exists(program + ".real"):
                continue
            os.rename(program, program + ".real")
            with open(program, "w") as script:
                script.write(f'#!/bin/sh\nexec "{self.folder}/glibc/ld-linux-x86-64.so.2" --library-path "{libraries}" "{program}.real" "$@"\n')
            os.chmod(program, 0o755)
        if not self._starts():
            done = subprocess.run([self["flexgen"], "--version"], capture_output=True, text=True, env=self.environment)
            raise SystemExit(f"{self['flexgen']} does not start, nor with the C library of its bundle: {done.stderr.strip()[:400]}")


def find(folder=None):
    """The Kit to run: `folder`, or what this script's own folder was unpacked from, or a bundle beside it, or a build of this source."""
    if folder:
        return Kit(folder, folder if os.path.isdir(os.path.join(folder, "tests", "fixtures")) else ROOT)
    if os.path.exists(os.path.join(ROOT, "flexgen")):
        if not os.path.isdir(os.path.join(ROOT, "tests", "fixtures")):
            print("without tree.tar.xz, which has what the golden models' tests and the demo read: unpack it beside bundle.tar.xz", file=sys.stderr)
        return Kit(ROOT, ROOT)
    packed = os.path.join(STATE, "bundle.tar.xz")
    if os.path.exists(packed):
        unpacked = os.path.join(STATE, "bundle")
        if not os.path.exists(unpacked) or os.path.getmtime(unpacked) < os.path.getmtime(packed):
            shutil.rmtree(unpacked, ignore_errors=True)
            subprocess.run(["tar", "-C", STATE, "-xJf", packed], check=True)
            os.utime(unpacked)
        return Kit(unpacked, ROOT)
    compile_here(os.environ.get("FLEXGEN_CUDA_ARCHITECTURES", "native"))
    return Kit(BUILD, ROOT)
