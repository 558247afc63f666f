"""Tests, each in a process of its own, or several that are quick: what did not pass in company runs again by itself, as a fault ends its process. A test passes only if it ran; one that
the card cannot do is left out, which is said, and counts as neither passed nor failed."""
import concurrent.futures
import re
import subprocess
import time

TELLING = re.compile(r"Failure|error:|what\(\)|GPU:|Which|differs? |tolerance|at [0-9]+|trace|terminate|needs a GPU|=========")


def listed(kit, program, pattern):
    """Names of a program's tests, as --gtest_filter takes them."""
    done = subprocess.run([kit[program], "--gtest_list_tests", f"--gtest_filter={pattern}"], capture_output=True, text=True, cwd=kit.tree, env=kit.environment)
    names, suite = [], ""
    for line in done.stdout.splitlines():
        if line[:1] == " ":
            names.append(suite + line.split("#")[0].strip())
        elif line.split("#")[0].strip().endswith("."):
            suite = line.split("#")[0].strip()
    return names


CANNOT = "needs compute capability"  # how a skip begins that the card is the reason of (src/backend/cuda_status.h)


def skips(lines):
    """The name of each test that says that it is skipped, and what it said before."""
    found, said = {}, []
    for line in lines:
        if line.startswith("[ RUN      ] "):
            said = []
        elif line.startswith("[  SKIPPED ] ") and "listed below" not in line:
            found.setdefault(line[len("[  SKIPPED ] "):].split(" (")[0].strip(), " ".join(said))
        else:
            said.append(line.strip())
    return found


def judged(status, lines, count=1):
    """Empty if the tests of a process, `count`, ran and passed, but for what the card cannot do, else what became of it. And the names of these, and why."""
    if status == 124:
        return "stopped in time", {}
    left_out = {name: said[said.index(CANNOT):].strip() for name, said in skips(lines).items() if CANNOT in said}
    if len(left_out) < len(skips(lines)):
        return "skipped", {}
    if status != 0:
        return f"ended with status {status}", {}
    passed = count - len(left_out)
    return "" if any(line.startswith(f"[  PASSED  ] {passed} test") for line in lines) else "did not run", left_out


def run_tests(call, program, pattern, limit_s, prefix=(), proof=None, each_s=200, together=1):
    """Runs the tests that match, several processes at a time, each with `prefix` before it and with up to `together` tests. `proof`: a line that the output must have too."""
    names = listed(call.kit, program, pattern)
    if not names:
        return {"status": "failed", "why": f"{program} has no test that matches {pattern}"}
    end = time.monotonic() + min(limit_s, call.left_s())
    failures, left_out = [], {}

    def run_process(tests):
        left = end - time.monotonic()
        if left < 3:
            return "no time was left", []
        words = [*prefix, call.kit[program], f"--gtest_filter={':'.join(tests)}"]
        status, lines = call.run_program("-".join([*(prefix[2:3] if prefix else []), program, tests[0], *(["and-others"] if len(tests) > 1 else [])]), words, min(each_s, left))
        why, cannot = judged(status, lines, len(tests))
        if not why:
            left_out.update(cannot)
        if not why and proof and not any(proof in line for line in lines):
            why = f"does not say '{proof}'"
        return why, lines

    def run_group(tests):
        """Name, why and lines of each that failed."""
        if len(tests) > 1 and not run_process(tests)[0]:
            return []
        return [(name, why, lines) for name in tests for why, lines in [run_process([name])] if why]

    groups = [names[at:at + together] for at in range(0, len(names), together)]
    with concurrent.futures.ThreadPoolExecutor(call.jobs) as pool:
        for group in pool.map(run_group, groups):
            for name, why, lines in group:
                failures.append({"test": name, "why": why, "says": [line.strip()[:300] for line in lines if TELLING.search(line)][:4]})
                if len(failures) <= 12:
                    call.show([f"{why}: {name}", *("  " + line for line in failures[-1]["says"])])
    left_out = {name: why for name, why in left_out.items() if name not in {failure["test"] for failure in failures}}
    passed = len(names) - len(failures) - len(left_out)
    result = {"status": "failed" if failures or passed == 0 else "passed", "tests": len(names), "passed": passed}
    if left_out:
        result["left_out"] = f"{len(left_out)} of {len(names)} tests: {'; '.join(sorted(set(left_out.values())))}"
    if result["status"] == "failed":
        result["why"] = f"{passed} of {len(names)} passed"
    if failures:
        result["failures"] = failures
    return result
