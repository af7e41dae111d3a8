"""What half-sent requests do to the dashboard: whether a page is still answered, after how long, with how many threads.

Starts `attnsearch dashboard` on the loopback with few file handles, opens many connections that send half a request
each, and asks for the first page meanwhile.
"""

from __future__ import annotations

import argparse
import resource
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack, closing
from pathlib import Path

HALF = b"GET /attention/ HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def start(results: Path, n_handles: int) -> tuple[subprocess.Popen[str], str]:
    """The dashboard and the address of its first page."""
    process = subprocess.Popen(
        [sys.executable, "-m", "attnsearch", "dashboard", str(results), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (n_handles, n_handles)),
    )
    assert process.stdout is not None
    line = next(line for line in process.stdout if line.startswith("attention explorer: "))
    return process, line.split()[-1]


def n_threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def seconds_of_page(url: str) -> float:
    began = time.perf_counter()
    with urllib.request.urlopen(url, timeout=300) as answer:
        assert b"Studies" in answer.read()
    return time.perf_counter() - began


def measure(url: str, pid: int, n_half: int) -> None:
    """Prints one line per figure."""
    host, port = url.split("/")[2].split(":")
    print(f"page alone: {seconds_of_page(url):.3f} s, {n_threads(pid)} threads")
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(socket.create_connection((host, int(port))))) for _ in range(n_half)]
        for client in clients:
            client.sendall(HALF)
        began, taken, peak = time.perf_counter(), list[float](), 0
        asking = threading.Thread(target=lambda: taken.append(seconds_of_page(url)))
        asking.start()
        while asking.is_alive():
            peak = max(peak, n_threads(pid))
            asking.join(0.1)
        print(f"page behind {n_half} half-sent requests: {taken[0]:.1f} s, at most {peak} threads")
        ended = [client.recv(1) for client in clients]
        print(f"all {ended.count(b'')} are closed after {time.perf_counter() - began:.1f} s")
    print(f"page afterwards: {seconds_of_page(url):.3f} s, {n_threads(pid)} threads")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="a results folder")
    parser.add_argument("--half", type=int, default=400, help="half-sent requests")
    parser.add_argument("--handles", type=int, default=200, help="file handles of the dashboard")
    arguments = parser.parse_args()
    process, url = start(arguments.results, arguments.handles)
    try:
        measure(url, process.pid, arguments.half)
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
