"""Rude clients against the real server: does memory grow, does a row stick, is a text wrong?

    python -m benchmarks.serving_soak --requests 300

Of ten requests, four are honest and held to the text that the first such one got, three leave while a stream runs, one
breaks off in its body as a killed client does, one is malformed and one is too long. Shown are the server's resident
memory after every tenth of them, and what /metrics says at the end. Needs the extra `serve`.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

import openai

PROMPT = "Anna: the picnic is on Friday.\nBen: fine, I will bring {}.\nQuestion: When is the picnic?\nAnswer:"
THINGS = ("bread", "tea", "a lamp", "the map")


class Clients:
    """Eight at once."""

    def __init__(self, url: str, most: int) -> None:
        self.url, self.most = url, most
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)
        self.expected: dict[str, str] = {}
        self.wrong: list[str] = []
        self.lock = threading.Lock()

    def one(self, number: int) -> None:
        """Request `number`, honest or rude."""
        rng = random.Random(number)
        prompt = PROMPT.format(rng.choice(THINGS))
        given: dict[str, Any] = {"model": "reference", "prompt": prompt, "max_tokens": self.most, "temperature": 0}
        kind = number % 10
        if kind < 4:
            self.honest(prompt, given)
        elif kind < 7:
            stream = self.client.completions.create(**{**given, "temperature": 2, "max_tokens": 1000}, stream=True)
            for _ in range(rng.randint(1, 5)):
                next(iter(stream), None)
            stream.close()
        elif kind == 7:
            host, port = self.url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as raw:
                raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                            b"Content-Length: 900\r\n\r\n{\"model\"")  # fmt: skip
        else:
            bad = {"temperature": "hot"} if kind == 8 else {"prompt": [5] * 5000}
            try:
                self.client.completions.create(**given | bad)
                self.wrong.append(f"request {number} should have been refused")
            except openai.BadRequestError:
                pass

    def honest(self, prompt: str, given: dict[str, Any]) -> None:
        """Held to what the same prompt got before."""
        text = self.client.completions.create(**given).choices[0].text
        with self.lock:
            if self.expected.setdefault(prompt, text) != text:
                self.wrong.append(text)


def resident(process: int) -> float:
    """MiB, from /proc."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--answer", type=int, default=24)
    given = parser.parse_args()
    command = [sys.executable, "-m", "tuner.serving.command", "--model", "reference", "--no-token", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as server:
        assert server.stdout is not None
        found = re.search(r"http://[^/]+", server.stdout.readline())
        assert found, "the server did not start"
        clients, curve = Clients(found[0], given.answer), []
        with ThreadPoolExecutor(8) as pool:
            for tenth in range(10):
                list(pool.map(clients.one, range(tenth * given.requests // 10, (tenth + 1) * given.requests // 10)))
                curve.append(f"{resident(server.pid):.0f}")
        sleep(2)
        print("resident MiB", *curve)
        print(f"{len(clients.wrong)} wrong", *clients.wrong[:3])
        metrics = urllib.request.urlopen(f"{found[0]}/metrics").read().decode()
        shown = re.compile("a2sf_(requests_total|refused_total|running|waiting|cache_bytes|cache_reserved)")
        print(*(line for line in metrics.splitlines() if shown.match(line)), sep="\n")
        server.send_signal(signal.SIGTERM)
        print("exit code after SIGTERM", server.wait(60))


if __name__ == "__main__":
    main()
