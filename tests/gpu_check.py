#!/usr/bin/env python3
"""tools/gpu_check without a GPU: programs that shell scripts play, and a driver that one plays. Usage: gpu_check.py SOURCE_DIR"""
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time

SOURCE = os.path.abspath(sys.argv[1])

# Plays a test program: its tests pass, fail, are skipped, crash, take long or are nothing for the card, as their names say.
TESTS = """#!/bin/sh
cannot() {
  printf '[ RUN      ] Gpu/Suite.%s/bf16\\nkernels_test.cc:7: Skipped\\n%s\\n\\n[  SKIPPED ] Gpu/Suite.%s/bf16 (0 ms)\\n' "$1" "$2" "$1"
  printf '[  PASSED  ] %s.\\n[  SKIPPED ] 1 test, listed below:\\n[  SKIPPED ] Gpu/Suite.%s/bf16\\n' "$3" "$1"
}
case "$*" in
*--gtest_list_tests*) printf 'Gpu/Suite.\\n'; for t in $FAKE_TESTS; do printf '  %s/bf16  # GetParam() = 1\\n' $t; done ;;
*:*Crashes*) kill -ABRT $$ ;;
*:*Cannot*) cannot Cannot 'needs compute capability 8.0: Test 5000 does not multiply bf16' '2 tests' ;;
*Cannot*) cannot Cannot 'needs compute capability 8.0: Test 5000 does not multiply bf16' '0 tests' ;;
*:*:*) echo '[  PASSED  ] 3 tests.' ;;
*Passes*) echo '[  PASSED  ] 1 test.' ;;
*Skips*) echo 'needs a GPU: none'; echo '[  SKIPPED ] Gpu/Suite.Skips/bf16'; echo '[  PASSED  ] 0 tests.' ;;
*Fails*) echo 'kernels_test.cc:5: Failure'; exit 1 ;;
*Crashes*) kill -ABRT $$ ;;
*Sleeps*) sleep 60 ;;
*) echo '[  PASSED  ] 0 tests.' ;;
esac
"""
SANITIZER = """#!/bin/sh
while [ $# -gt 1 ] && [ ! -x "$1" ]; do shift; done
"$@"
s=$?
echo "========= ERROR SUMMARY: ${FAKE_ERRORS:-0} errors"
exit $s
"""
SMI = """#!/bin/sh
[ -z "$FAKE_NO_GPU" ] || exit 9
case "$*" in
*compute_cap*) echo ${FAKE_CAPABILITY:-9.0} ;;
*) echo 'NVIDIA Test 5000, 580.1, 81559 MiB, 5, 16' ;;
esac
"""


def put(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, 0o755)


class Machine:
    def __init__(self, folder):
        self.folder, self.kit, self.out = folder, os.path.join(folder, "kit"), os.path.join(folder, "out")
        for name in ("backend", "model", "engine"):
            put(f"{self.kit}/src/{name}_test", TESTS)
        put(f"{self.kit}/flexgen", "#!/bin/sh\necho 'gpu 0       NVIDIA Test 5000'\n")
        for name in ("gpu_probe", "gpu_shapes", "gpu_bench", "gpu_block_bench"):
            put(f"{self.kit}/src/{name}", "#!/bin/sh\necho h2d 5 GB/s\nexit ${FAKE_STATUS:-0}\n")
        put(f"{self.kit}/commit", "abc1234\n")
        put(f"{folder}/bin/nvidia-smi", SMI)
        put(f"{folder}/bin/compute-sanitizer", SANITIZER)

    def check(self, *words, **environment):
        """Exit status, what it says, and the results that it left."""
        done = subprocess.run([sys.executable, f"{SOURCE}/tools/gpu_check", "--kit", self.kit, "--out", self.out, *words], capture_output=True, text=True, timeout=100,
                              env=dict(os.environ, PATH=f"{self.folder}/bin:{os.environ['PATH']}", GPU_CHECK_WORK=self.folder, PYTHONDONTWRITEBYTECODE="1", **environment))
        files = [name for name in (os.listdir(self.out) if os.path.isdir(self.out) else []) if name.endswith("-gpu.json")]
        results = json.load(open(f"{self.out}/{files[0]}")) if files else {}
        return done.returncode, done.stdout + done.stderr, results


def test_all_pass(machine):
    status, says, results = machine.check("backend", "memcheck", "probe", FAKE_TESTS="Passes PassesToo")
    assert status == 0, says
    assert (results["card"], results["driver"], results["commit"], results["gpus"]) == ("NVIDIA Test 5000", "580.1", "abc1234", 1), results
    assert results["date"] in os.listdir(machine.out)[0] + os.listdir(machine.out)[1] + os.listdir(machine.out)[2]
    assert results["parts"]["backend"]["tests"] == results["parts"]["backend"]["passed"] == 2, results
    assert results["parts"]["probe"]["says"] == ["h2d 5 GB/s"], results
    assert sorted(name.split("-")[-1] for name in os.listdir(machine.out)) == ["gpu.json", "log.txt", "logs.tar.gz"], os.listdir(machine.out)
    assert "logs/backend_test-Gpu-Suite.Passes-bf16.txt" in tarfile.open(f"{machine.out}/logs.tar.gz").getnames()


def test_each_by_itself(machine):
    status, says, results = machine.check("backend", FAKE_TESTS="Crashes Passes Fails Skips Nothing")
    kept = results["parts"]["backend"]
    assert status == 1 and kept["status"] == "failed" and (kept["tests"], kept["passed"]) == (5, 1), says
    why = {failure["test"]: failure["why"] for failure in kept["failures"]}
    assert why == {"Gpu/Suite.Crashes/bf16": "ended with status -6", "Gpu/Suite.Fails/bf16": "ended with status 1", "Gpu/Suite.Skips/bf16": "skipped",
                   "Gpu/Suite.Nothing/bf16": "did not run"}, why


def test_in_company(machine):
    status, says, results = machine.check("model", FAKE_TESTS="Passes PassesToo PassesAlso")
    assert status == 0 and results["parts"]["model"]["passed"] == 3, says
    assert [name for name in tarfile.open(f"{machine.out}/logs.tar.gz").getnames() if "model_test" in name] == ["logs/model_test-Gpu-Suite.Passes-bf16-and-others.txt"], says
    status, says, results = machine.check("model", FAKE_TESTS="Passes PassesToo Crashes")
    kept = results["parts"]["model"]
    assert status == 1 and (kept["tests"], kept["passed"]) == (3, 2) and [failure["test"] for failure in kept["failures"]] == ["Gpu/Suite.Crashes/bf16"], says


def test_a_skip_fails_everywhere(machine):
    for part in ("backend", "model", "engine", "memcheck", "racecheck", "synccheck"):
        status, says, _ = machine.check(part, FAKE_TESTS="Skips")
        assert status == 1 and "skipped" in says, says
        status, says, _ = machine.check(part, FAKE_TESTS="")
        assert status == 1 and "no test" in says, says


def test_what_the_card_cannot_do_is_left_out(machine):
    why = "needs compute capability 8.0: Test 5000 does not multiply bf16"
    for part in ("backend", "model"):  # each by itself, and in company
        status, says, results = machine.check(part, FAKE_TESTS="Passes PassesToo Cannot", FAKE_CAPABILITY="7.5")
        kept = results["parts"][part]
        assert status == 0 and (kept["status"], kept["tests"], kept["passed"], kept["left_out"]) == ("passed", 3, 2, f"1 of 3 tests: {why}"), kept
        assert f"LEFT OUT 1 of 3 tests: {why}" in says and f"all passed; not whole on this card: {part}" in says, says
        assert results["capability"] == 7.5, results
    # Nothing that ran is no pass, and another skip beside it is still a failure.
    status, says, results = machine.check("backend", FAKE_TESTS="Cannot")
    assert status == 1 and results["parts"]["backend"]["why"] == "0 of 1 passed", says
    status, says, results = machine.check("backend", FAKE_TESTS="Passes Cannot Skips")
    assert status == 1 and [failure["test"] for failure in results["parts"]["backend"]["failures"]] == ["Gpu/Suite.Skips/bf16"], says
    # Parts that are for one type take the one that the card has.
    for card, pattern in (("7.5", "cuda_f16"), ("8.0", "cuda_bf16"), ("[N/A]", "cuda_bf16")):
        status, says, results = machine.check("racecheck", FAKE_TESTS="", FAKE_CAPABILITY=card)
        assert status == 1 and f"LongContexts*{pattern}" in results["parts"]["racecheck"]["why"], results
        assert ("left_out" in results["parts"]["racecheck"]) == (card == "7.5"), results
    put(f"{machine.kit}/src/gpu_shapes", "#!/bin/sh\necho 'left out: bf16: needs compute capability 8.0'\n")
    status, says, results = machine.check("shapes")
    assert status == 0 and results["parts"]["shapes"]["left_out"] == "bf16: needs compute capability 8.0" and "shapes: LEFT OUT bf16" in says, says


def test_no_gpu_fails(machine):
    for part in ("backend", "memcheck", "probe"):
        status, says, results = machine.check(part, FAKE_NO_GPU="1", FAKE_TESTS="Passes")
        assert status == 1 and results["parts"][part]["why"] == "no GPU is seen", says


def test_sanitizer_errors_fail(machine):
    status, says, _ = machine.check("memcheck", FAKE_TESTS="Passes", FAKE_ERRORS="3")
    assert status == 1 and "does not say" in says, says


def test_time_is_kept(machine):
    begin = time.monotonic()
    status, says, results = machine.check("--limit", "16", "probe", "backend", "shapes", FAKE_TESTS="Passes Sleeps")
    assert status == 1 and time.monotonic() - begin < 18, says
    assert results["parts"]["probe"]["status"] == "passed", results  # what there was before is kept
    assert [failure["why"] for failure in results["parts"]["backend"]["failures"]] == ["stopped in time"], results
    assert "no time is left for shapes" in says, says


def test_goes_on(machine):
    machine.check("probe")
    status, says, results = machine.check("shapes", FAKE_STATUS="2")
    assert status == 1 and set(results["parts"]) == {"probe", "shapes"} and results["parts"]["shapes"]["why"] == "ended with status 2", says
    _, says, _ = machine.check(FAKE_TESTS="Passes")
    assert "probe: passed before" in says, says


def test_arguments(machine):
    status, says, _ = machine.check("nothing")
    assert status == 2 and "no part is called nothing" in says, says
    status, says, _ = machine.check("dry-run", FAKE_TESTS="Passes")
    assert status == 0 and "backend_test: 1 tests need a GPU" in says, says
    os.remove(f"{machine.kit}/src/gpu_probe")
    status, says, _ = machine.check("dry-run", FAKE_TESTS="Passes")
    assert status == 1 and "gpu_probe is missing" in says, says


for name, test in sorted(globals().copy().items()):
    if name.startswith("test_"):
        with tempfile.TemporaryDirectory() as folder:
            begin = time.monotonic()
            test(Machine(folder))
            print(f"{name}: {time.monotonic() - begin:.1f} s")
