"""A service in processes of its own, on a free port of this machine; and runs for it to serve."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl

from tablefold.data.preparation import prepare
from tablefold.data.table import Columns, Table
from tablefold.train import Config, train_run

SOURCES = str(Path(__file__).parents[2] / "src")
COLUMNS = Columns("clicked", ("user", "ad"), dense=("age",), counts=("visits",))
RECORD = {"user": "ann", "ad": 7, "age": 31.5, "visits": 2}


def log(rows=420, seed=0):
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "clicked": random.integers(0, 2, rows),
            "user": [f"u{number}" for number in random.integers(0, 40, rows)],
            "ad": random.integers(0, 9, rows),
            "age": random.random(rows) * 50,
            "visits": random.integers(0, 9, rows),
        }
    )


def make_run(folder, name="run", **changes):
    """A run on the log, in `folder`/`name`."""
    data = folder / "data"
    if not data.exists():
        log().write_parquet(folder / "log.parquet")
        prepare(Table((str(folder / "log.parquet"),), COLUMNS), data)
    settings = {"dim": 4, "batch_size": 60, "model": "dcn_v2", "model_options": {"deep_mlp": [8]}, "device": "cpu"}
    train_run(Config(str(data), method="qr", **{**settings, **changes}), folder / name)
    return folder / name


class Serving:
    """A service that runs, and ways to ask it."""

    def __init__(self, run, *options, **environment):
        command = [sys.executable, "-m", "tablefold", "serve", str(run), "--port", "0", *options]
        variables = {**os.environ, "PYTHONPATH": SOURCES, **environment}
        self.process = subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True)
        self.lines = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        found = re.search(r"http://([^ ]+):([0-9]+)", self.wait_for("is served as"))
        self.host, self.port = found[1].strip("[]"), int(found[2])

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, text, seconds=120):
        """The first line that holds a text."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for line in list(self.lines):
                if text in line:
                    return line
            if self.process.poll() is not None:
                self._reader.join(5)
                raise AssertionError(f"the service ended: {self.lines}")
            time.sleep(0.05)
        raise AssertionError(f"no {text!r} in {self.lines}")

    def connect(self, timeout=60):
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def ask(self, method, path, body=None, headers=None, connection=None):
        """Status, headers and body of an answer."""
        own = connection or self.connect()
        content = json.dumps(body) if isinstance(body, (dict, list)) else body
        own.request(method, path, content, headers or {})
        answer = own.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        if connection is None:
            own.close()
        return found

    def score(self, records, **more):
        status, _, body = self.ask("POST", "/score", {"records": records}, **more)
        assert status == 200, body
        return json.loads(body)

    def workers(self):
        """The processes that answer."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]

    def end(self, seconds=60):
        """End it as an operator does; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._reader.join(5)
            self.process.stderr.close()


@contextmanager
def serving(run, *options, **environment):
    service = Serving(run, *options, **environment)
    try:
        yield service
    finally:
        service.end()
