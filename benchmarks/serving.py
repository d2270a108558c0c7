"""A service under load, on this machine: requests/s, p50 and p99 for 1 and 100 candidates a request, memory, losses.

    python benchmarks/serving.py RUN ROWS.parquet --seconds 60

One service of one process, and clients on the same machine, each a thread whose connection asks without a pause.
RUN is a run on a table, ROWS a file with its columns.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import polars as pl
from common import surroundings

from tablefold.serving.prediction import predict_file


def main() -> None:
    options = parse()
    rows = pl.read_parquet(options.rows)[:20_000]
    records = rows.to_dicts()
    service, address = start(options.run, options.workers)
    lines = []
    try:
        check_scores(options, address, rows[:500])
        for candidates in (1, 100):
            bodies = [json.dumps({"records": records[n : n + candidates]}).encode() for n in range(0, 10_000, 100)]
            for clients in (1, 8):
                lines.append(load(service, address, bodies, options.seconds, clients, candidates))
                print(json.dumps(lines[-1]), flush=True)
        lines.append(malformed(address, records[0], 1000))
        print(json.dumps(lines[-1]), flush=True)
        if options.flat:
            lines.append(load(service, address, bodies, options.flat, 2, 100, what="memory"))
            print(json.dumps(lines[-1]), flush=True)
    finally:
        service.send_signal(signal.SIGTERM)
        ended = service.wait(120)
    with options.out.open("a") as stream:
        for line in lines:
            stream.write(json.dumps({"benchmark": "serving", **surroundings(), **line, "exit": ended}) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("rows")
    parser.add_argument("--seconds", type=float, default=60, help="of each load (default: 60)")
    parser.add_argument(
        "--flat", type=float, default=0, help="seconds of one more load, for its memory (default: none)"
    )
    parser.add_argument("--workers", default="1", help="processes of the service (default: 1)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "serving.jsonl")
    return parser.parse_args()


def start(run: str, workers: str) -> tuple[subprocess.Popen[str], tuple[str, int]]:
    command = [sys.executable, "-m", "tablefold", "serve", run, "--port", "0", "--workers", workers, "--name", "served"]
    service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    line = service.stderr.readline()
    found = re.search(r"http://([^ :]+):([0-9]+)", line)
    if not found:
        raise SystemExit(line)
    threading.Thread(target=lambda: [print(each, end="") for each in service.stderr], daemon=True).start()
    return service, (found[1], int(found[2]))


def check_scores(options: argparse.Namespace, address: tuple[str, int], rows: pl.DataFrame) -> None:
    """The service's scores are those of `predict`."""
    folder = options.out.parent
    file, out = folder / "served.parquet.tmp", folder / "scores.parquet.tmp"
    try:
        rows.write_parquet(file)
        predict_file(options.run, file, out, "cpu")
        expected = pl.read_parquet(out)["score"].to_list()
    finally:
        file.unlink(missing_ok=True)
        out.unlink(missing_ok=True)
    _, found = ask(http.client.HTTPConnection(*address), json.dumps({"records": rows.to_dicts()}).encode())
    worst = max(abs(one - other) for one, other in zip(json.loads(found)["scores"], expected, strict=True))
    assert worst < 1e-5, worst


def ask(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, bytes]:
    connection.request("POST", "/score", body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def load(
    service: subprocess.Popen[str],
    address: tuple[str, int],
    bodies: list[bytes],
    seconds: float,
    clients: int,
    candidates: int,
    what: str = "load",
) -> dict:
    took, errors, memory = [], [], [private_bytes(service.pid)]
    until = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection, draw = http.client.HTTPConnection(*address), random.Random(number)
        while (began := time.perf_counter()) < until:
            status, _ = ask(connection, draw.choice(bodies))
            took.append(time.perf_counter() - began)
            if status != 200:
                errors.append(status)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(min(5, seconds / 10))
        memory.append(private_bytes(service.pid))
    for thread in threads:
        thread.join()
    took.sort()
    return {
        "what": what,
        "clients": clients,
        "candidates": candidates,
        "seconds": seconds,
        "requests": len(took),
        "requests_per_second": round(len(took) / seconds, 1),
        "p50_ms": round(1000 * took[len(took) // 2], 2),
        "p99_ms": round(1000 * took[int(len(took) * 0.99)], 2),
        "errors": len(errors),
        "private_mb_first_quarter_last": [round(memory[at] / 1e6, 1) for at in (0, len(memory) // 4, -1)],
        "load_average": os.getloadavg()[0],
    }


def private_bytes(process: int) -> int:
    """Bytes that the processes of the service have for themselves."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    total = 0
    for each in (str(process), *children):
        text = Path(f"/proc/{each}/smaps_rollup").read_text()
        total += 1024 * sum(int(size) for size in re.findall(r"^Private_\w+:\s+(\d+)", text, re.MULTILINE))
    return total


def malformed(address: tuple[str, int], record: dict, count: int) -> dict:
    """Requests that are none, all drawn from one: bytes changed, cut or doubled, values of wrong types."""
    draw, statuses = random.Random(0), {}
    good = json.dumps({"records": [record]}).encode()
    for _ in range(count):
        body = bytearray(good)
        for _ in range(draw.randint(1, 8)):
            at = draw.randrange(len(body))
            body[at : at + draw.randint(0, 9)] = draw.randbytes(draw.randint(0, 9))
        path = draw.choice(["/score", "/v2/models/served/infer"])
        connection = http.client.HTTPConnection(*address)
        connection.request("POST", path, bytes(body))
        status = connection.getresponse().status
        statuses[status] = statuses.get(status, 0) + 1
        connection.close()
    return {"what": "mutated requests", "requests": count, "statuses": statuses}


if __name__ == "__main__":
    main()
