"""Rude clients against the real server: does memory grow, does a row stick, is a text wrong?

    python -m benchmarks.serving_soak --requests 300
    python -m benchmarks.serving_soak --requests 40 --model smollm2

Of ten requests, four are honest and held to the text that the same prompt got alone, two leave while a stream runs, one
is a process that is killed (kill -9) while its stream runs, one breaks off in its body, one is malformed and one is too
long. Shown are the server's resident memory after every tenth of them, and what /metrics says at the end. Needs the
extra `serve`.
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
TOO_LONG = [5] * 50_000
KILLED = """
import json, sys, urllib.request
url, model = sys.argv[1:]
given = {"model": model, "prompt": "Anna:", "max_tokens": 1000, "stream": True}
headers = {"Content-Type": "application/json"}
for line in urllib.request.urlopen(urllib.request.Request(url, json.dumps(given).encode(), headers)):
    print("read", flush=True)
"""
"""A client of its own process, which says when the stream has begun."""


class Clients:
    """Eight at once."""

    def __init__(self, url: str, model: str, most: int) -> None:
        self.url, self.model, self.most = url, model, most
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600)
        self.expected: dict[str, str] = {}
        self.wrong: list[str] = []
        self.lock = threading.Lock()
        for thing in THINGS:
            self.honest(PROMPT.format(thing))  # alone

    def one(self, number: int) -> None:
        """Request `number`, honest or rude."""
        rng = random.Random(number)
        prompt = PROMPT.format(rng.choice(THINGS))
        kind = number % 10
        given = self.given(prompt)
        if kind < 4:
            self.honest(prompt)
        elif kind == 6:
            command = [sys.executable, "-c", KILLED, f"{self.url}/v1/completions", self.model]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                process.stdout.readline()
                process.kill()
        elif kind < 6:
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
            bad = {"temperature": "hot"} if kind == 8 else {"prompt": TOO_LONG}
            try:
                self.client.completions.create(**given | bad)
                self.wrong.append(f"request {number} should have been refused")
            except openai.BadRequestError:
                pass

    def given(self, prompt: str) -> dict[str, Any]:
        """What an honest request says."""
        return {"model": self.model, "prompt": prompt, "max_tokens": self.most, "temperature": 0}

    def honest(self, prompt: str) -> None:
        """Held to what the same prompt got before."""
        text = self.client.completions.create(**self.given(prompt)).choices[0].text
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
    parser.add_argument("--model", default="reference")
    parser.add_argument("--config", help="a tuned policy; without it the whole cache is kept")
    given = parser.parse_args()
    command = [sys.executable, "-m", "tuner.serving.command", "--model", given.model, "--no-token", "--port", "0"]
    command += ["--config", given.config] if given.config else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as server:
        assert server.stdout is not None
        found = re.search(r"http://[^/]+", server.stdout.readline())
        assert found, "the server did not start"
        clients, curve = Clients(found[0], given.model, given.answer), []
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
