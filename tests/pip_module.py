"""A module from PyPI for a test: from where this Python has it, else put into a folder by pip. Where that cannot be done the test is skipped (77)."""
import importlib
import os
import subprocess
import sys

SKIPPED = 77
PIP_S = 120


def pip_module(name, folder, *more, limit_s=PIP_S):
    """`more`: packages that it is to find beside it. Ends the test if it cannot be had."""
    try:
        return importlib.import_module(name)
    except ImportError:
        pass
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--timeout", "15", "--retries", "1", "--target", folder, name, *more]
    try:
        done = subprocess.run(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=limit_s, text=True)
        if done.returncode == 0:
            sys.path.insert(0, folder)
            return importlib.import_module(name)
        why = done.stdout.strip().splitlines()[-1:] or ["pip failed"]
    except (subprocess.TimeoutExpired, ImportError) as error:
        why = [str(error)]
    print(f"{os.path.basename(sys.argv[0])}: skipped, as {name} of PyPI cannot be had: {why[0]}")
    sys.exit(SKIPPED)
