#!/usr/bin/env python3
"""PyPI's schemathesis against flexgen serve by docs/openapi.json, for a bounded number of requests: no call is answered with an error of the server, and every answer has a status, a type and a form that the file
names. Before that: the file names each path that the server has.

It is taken from where this Python has it, else put into a folder of its own by pip; where that cannot be done the test is skipped (77).

Usage: serve_schema.py FLEXGEN_BINARY SOURCE_DIR [--examples N]"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

from pip_module import pip_module
from serve import Server, Test, check

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
LIMIT_S = 400


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("source")
    parser.add_argument("--examples", type=int, default=15)
    options = parser.parse_args()
    described = os.path.join(options.source, "docs/openapi.json")
    with tempfile.TemporaryDirectory() as work:
        test = Test(options.binary, options.source, work)
        with Server(test.binary, test.model, "--state", test.path("state")) as server:
            with open(described) as file:
                paths = json.load(file)["paths"]
            for path, methods in paths.items():
                for method in methods:
                    status, _, text = server.call(method.upper(), path.replace("{", "").replace("}", ""), raw="{}" if method == "post" else None)
                    check(status != 405 and not (status == 404 and text.count("there is no /")), f"{method} {path}: {status} {text}")
            folder = os.path.join(work, "pip")
            pip_module("schemathesis", folder)
            command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run", described, "--url", f"http://127.0.0.1:{server.port}", "--checks", CHECKS,
                       "--max-examples", str(options.examples), "--seed", "1", "--phases", "examples,coverage,fuzzing"]
            ran = subprocess.run(command, cwd=work, env={**os.environ, "PYTHONPATH": os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT_S, text=True)
            check(ran.returncode == 0, ran.stdout[-6000:])
            cases = re.search(r"(\d+) generated, (\d+) passed", ran.stdout)
            check(cases and int(cases[1]) >= 100, ran.stdout[-3000:])
            server.settle()
    print(f"serve_schema.py: all holds: {cases[2]} calls")


if __name__ == "__main__":
    main()
