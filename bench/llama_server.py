"""llama.cpp's server, for the scripts that put it beside flexgen."""
import json
import os
import subprocess
import time
import urllib.request

STARTS_S = 60


class LlamaServer:
    """The server of a GGUF while a `with` block lasts. `flags`: its own."""

    def __init__(self, folder, gguf, port, *flags):
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen([os.path.join(folder, "llama-server"), "-m", gguf, "--port", str(port), *map(str, flags)], env=dict(os.environ, LD_LIBRARY_PATH=folder),
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

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
        self.process.kill()
        self.process.wait()

    def post(self, path, body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
