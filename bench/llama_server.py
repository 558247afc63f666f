"""llama.cpp's server, for the scripts that put it beside flexgen."""
import json
import os
import signal
import subprocess
import time
import urllib.request

STARTS_S = 60


class LlamaServer:
    """The server of a GGUF while a `with` block lasts. `flags`: its own. `wrapper`: a command that starts it."""

    def __init__(self, folder, gguf, port, *flags, wrapper=()):
        self.url = f"http://127.0.0.1:{port}"
        # A group of processes of its own, as a wrapper may stay beside what it started.
        self.process = subprocess.Popen([*wrapper, os.path.join(folder, "llama-server"), "-m", gguf, "--port", str(port), *map(str, flags)], env=dict(os.environ, LD_LIBRARY_PATH=folder),
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def __enter__(self):
        end = time.monotonic() + STARTS_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).read()
                return self
            except OSError:
                time.sleep(0.1)
        self.__exit__()
        raise SystemExit(f"llama-server does not answer at {self.url}")

    def __exit__(self, *_):
        for stop in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, stop)
                self.process.wait(10)
                return
            except ProcessLookupError:
                self.process.wait()
                return
            except subprocess.TimeoutExpired:
                pass

    def post(self, path, body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
