"""/v1/suggest under load, beside a route of FastAPI that does nothing, in one run.

    python -m benchmarks.service                       # 200 requests a second for 20 s, each in turn

Both servers are uvicorn in a process of their own; a third process asks, at fixed times whether or not earlier answers
have come (a client that waits for them would hide every stall). Times are from when a request was due.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.service_parts import finished_study, free_port, serving

BARE = """
import sys, uvicorn
from fastapi import FastAPI, Request
app = FastAPI(openapi_url=None)
@app.post("/v1/suggest")
async def suggest(request: Request) -> dict[str, int]:
    await request.body()
    return {"alpha": 1}
uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning")
"""
CONNECTIONS = 16


async def ask(port: int, token: str, body: bytes, rate: float, seconds: float) -> list[float]:
    """Seconds from when each request was due to its whole answer."""
    request = (
        f"POST /v1/suggest HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    took: list[float] = []

    async def one(due: float) -> None:
        reader, writer = await free.get()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("http/1.1 200"), head
        length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length"))
        await reader.readexactly(length)
        took.append(time.perf_counter() - due)
        free.put_nowait((reader, writer))

    began = time.perf_counter()
    tasks = []
    for number in range(round(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    return sorted(took)


def wait_for(port: int) -> None:
    """Until somebody listens there."""
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far: it does not hang on what else the machine does."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def row(name: str, took: list[float], cpu: float) -> str:
    """Quantiles and the server's processor time per request, in milliseconds."""
    at = {share: 1000 * took[min(len(took) - 1, int(share * len(took)))] for share in (0.5, 0.95, 0.99)}
    quantiles = "".join(f"   p{100 * share:.0f} {each:7.2f}" for share, each in at.items())
    return f"{name:<20} {len(took):6d} requests{quantiles}   processor {1000 * cpu / len(took):5.2f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=2, help="of both, in turn")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "data") as service:
        study = finished_study(service.data, "anna")
        body = json.dumps({"study": study, "tokens": 700}).encode()
        port = free_port()
        bare = subprocess.Popen([sys.executable, "-c", BARE, str(port)], stdout=subprocess.DEVNULL)
        try:
            wait_for(port)
            for _ in range(given.rounds):
                servers = (("bare FastAPI route", port, bare.pid), ("/v1/suggest", service.port, service.process.pid))
                for name, where, pid in servers:
                    asyncio.run(ask(where, service.token, body, 20, 1))  # warm
                    before = cpu_seconds(pid)
                    took = asyncio.run(ask(where, service.token, body, given.rate, given.seconds))
                    print(row(name, took, cpu_seconds(pid) - before), f"  load {os.getloadavg()[0]:.1f}", flush=True)
        finally:
            bare.kill()
            bare.wait()


if __name__ == "__main__":
    main()
