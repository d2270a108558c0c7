"""`tablefold serve`: the protocol, the limits, and what must never happen to a request."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from serving.services import RECORD, SOURCES, log, make_run, serving
from tablefold import Scorer
from tablefold.serving.batching import Batcher, Job
from tablefold.serving.prediction import predict_file
from tablefold.serving.refusals import RefusedError
from tablefold.serving.service import Service
from tablefold.serving.supervisor import _listen

TOKEN = "a-token.of/ASCII"
LIMITS = ["--max-body", "20000", "--max-rows", "100", "--timeout", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def service(run):
    with serving(run, *LIMITS, "--name", "clicks") as found:
        yield found


@pytest.fixture(scope="module")
def scorer(run):
    return Scorer(run, "cpu")


def tensors(frame, binary=()):
    """The body of a v2 request for the rows of a frame, some columns as bytes behind the JSON."""
    inputs, tail = [], b""
    for name, kind in (("user", "BYTES"), ("ad", "INT64"), ("age", "FP64"), ("visits", "INT32")):
        values = frame[name].to_list()
        given = {"name": name, "datatype": kind, "shape": [len(values)]}
        if name in binary:
            if kind == "BYTES":
                data = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in values)
            else:
                data = np.array(values, {"INT64": "<i8", "FP64": "<f8", "INT32": "<i4"}[kind]).tobytes()
            given["parameters"] = {"binary_data_size": len(data)}
            tail += data
        else:
            given["data"] = values
        inputs.append(given)
    return inputs, tail


def test_records_get_the_scores_of_predict(service, run, tmp_path):
    fresh = log(50, seed=3).drop("clicked")
    fresh.write_parquet(tmp_path / "fresh.parquet")
    predict_file(run, tmp_path / "fresh.parquet", tmp_path / "scores.parquet", "cpu")
    expected = pl.read_parquet(tmp_path / "scores.parquet")["score"].to_numpy()
    answer = service.score(fresh.to_dicts())
    np.testing.assert_allclose(answer["scores"], expected, rtol=1e-5)
    assert set(answer) == {"scores", "version"}


def test_candidates_share_what_is_their_users(service, scorer):
    candidates = [{"ad": number} for number in range(9)]
    shared = {name: value for name, value in RECORD.items() if name != "ad"}
    status, _, body = service.ask("POST", "/score", {"shared": shared, "candidates": candidates})
    assert status == 200
    expected = scorer.score([{**shared, **candidate} for candidate in candidates])
    np.testing.assert_allclose(json.loads(body)["scores"], expected, rtol=1e-5)


def test_a_malformed_row_is_null_and_says_why(service):
    answer = service.score([RECORD, {**RECORD, "age": "old"}, {**RECORD, "user": None}])
    assert [score is None for score in answer["scores"]] == [False, True, False]
    assert answer["rejects"] == [{"row": 1, "reason": "field age is not a finite number: 'old'"}]


@pytest.mark.parametrize("binary", [(), ("user", "ad", "age", "visits"), ("user",)])
@pytest.mark.parametrize("wanted", [False, True])
def test_tensors_get_the_same_scores(service, scorer, binary, wanted):
    frame = log(20, seed=4)
    inputs, tail = tensors(frame, binary)
    content = {"id": "seven", "inputs": inputs, "outputs": [{"name": "score", "parameters": {"binary_data": wanted}}]}
    header = json.dumps(content).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))} if tail else {}
    status, heads, body = service.ask("POST", "/v2/models/clicks/infer", header + tail, headers)
    assert status == 200, body
    size = int(heads.get("inference-header-content-length", len(body)))
    answer = json.loads(body[:size])
    assert (answer["model_name"], answer["id"]) == ("clicks", "seven")
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("score", "FP32", [20])
    scores = np.frombuffer(body[size:], "<f4") if wanted else output["data"]
    np.testing.assert_allclose(scores, scorer.score(frame), rtol=1e-5)


def test_health_and_metadata(service):
    for path in ("/v2/health/live", "/v2/health/ready", "/ready", "/v2/models/clicks/ready"):
        assert service.ask("GET", path)[0] == 200
    description = json.loads(service.ask("GET", "/v2/models/clicks")[2])
    assert [each["name"] for each in description["inputs"]] == ["age", "visits", "user", "ad"]
    assert description["outputs"] == [{"name": "score", "datatype": "FP32", "shape": [-1]}]
    (version,) = description["versions"]
    assert service.ask("GET", f"/v2/models/clicks/versions/{version}")[0] == 200
    assert service.ask("GET", "/v2/models/clicks/versions/other")[0] == 404
    assert service.ask("GET", "/v2/models/other")[0] == 404
    assert json.loads(service.ask("GET", "/v2")[2])["extensions"] == ["binary_tensor_data"]


def test_figures_for_prometheus(service):
    service.score([RECORD] * 3)
    text = service.ask("GET", "/metrics")[2].decode()
    assert float(re.search(r'tablefold_requests_total\{asked="score",status="200"\} (\S+)', text)[1]) >= 1
    assert float(re.search(r"^tablefold_rows_total (\S+)", text, re.MULTILINE)[1]) >= 3
    assert "ann" not in text


BAD_BODIES = {
    "": "not JSON",
    "[]": "must be an object",
    "{": "not JSON",
    "{}": "the body has nothing",
    '{"records": []}': "one at least",
    '{"records": {}}': "must be a list",
    '{"records": [1]}': "records[0] is 1",
    '{"records": [{}]}': "records[0] has no 'age'",
    '{"records": [{}], "more": 1}': "it must have",
    '{"shared": 1, "candidates": [{}]}': "shared is 1",
    '{"shared": {}, "candidates": [{"user": []}]}': "has no 'age'",
    '{"records": [NaN]}': "not JSON",
    '{"records": [{"user": "\\ud800", "ad": 1, "age": 1, "visits": 1}]}': "not JSON",
    '{"records": [{"user": {}, "ad": 1, "age": 1, "visits": 1}]}': "an object of 0",
    '{"records": [{"user": "a", "ad": 1, "age": 1e38, "visits": 1}]}': "row 0 has no finite score",
    "[" * 5000: "not JSON",
}


@pytest.mark.parametrize("body", BAD_BODIES)
def test_bad_bodies(service, body):
    status, _, answer = service.ask("POST", "/score", body)
    assert status == 400
    assert BAD_BODIES[body] in json.loads(answer)["error"]


BAD_TENSORS = {
    "no inputs": ({"inputs": []}, {}, "inputs is"),
    "twice": ({"inputs": [{"name": "age"}] * 2}, {}, "given twice"),
    "unknown": ({"inputs": [{"name": "aeg"}]}, {}, "there is no input 'aeg'"),
    "type": ({"inputs": [{"name": "age", "datatype": "FP16", "shape": [1], "data": [1]}]}, {}, "datatype 'FP16'"),
    "FP32": ({"inputs": [{"name": "user", "datatype": "FP32", "shape": [1], "data": [1]}]}, {}, "takes no FP32"),
    "shape": ({"inputs": [{"name": "age", "datatype": "FP64", "shape": [1, 2], "data": [1]}]}, {}, "[rows, 1]"),
    "rows": ({"inputs": [{"name": "age", "datatype": "FP64", "shape": [2], "data": [1]}]}, {}, "1 values and a shape"),
    "value": ({"inputs": [{"name": "age", "datatype": "INT8", "shape": [1], "data": ["1"]}]}, {}, "holds '1'"),
    "truth": ({"inputs": [{"name": "age", "datatype": "INT8", "shape": [1], "data": [True]}]}, {}, "holds true"),
    "size": (
        {"inputs": [{"name": "age", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": 8}}]},
        {},
        "0 bytes are left",
    ),
    "length": ({"inputs": []}, {"Inference-Header-Content-Length": "99999"}, "must be a number of bytes"),
    "one": ({"inputs": [{"name": "age", "datatype": "FP64", "shape": [1], "data": [1]}]}, {}, "'visits' is missing"),
    "output": ({"inputs": tensors(log(1))[0], "outputs": [{"name": "x"}]}, {}, "only output is 'score'"),
    "many": ({"inputs": [{"name": "age", "datatype": "FP64", "shape": [101], "data": [1]}]}, {}, "most of a request"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_bad_tensors(service, name):
    content, headers, message = BAD_TENSORS[name]
    status, _, answer = service.ask("POST", "/v2/models/clicks/infer", content, headers)
    assert status == 400
    assert message in json.loads(answer)["error"]


def test_limits_of_size_and_time(service):
    assert service.ask("POST", "/score", {"records": [RECORD] * 101})[0] == 400
    status, headers, body = service.ask("POST", "/score", b"x" * 30_000)
    assert (status, headers["connection"]) == (413, "close")
    assert "20,000 bytes" in json.loads(body)["error"]
    assert service.ask("POST", "/score", b"{}", {"Content-Encoding": "gzip"})[0] == 415
    assert service.ask("GET", "/score")[0] == 405
    for text, expected in (
        (b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", b"408"),  # a body that does not come
        (b"POST /score HTTP/1.1\r\nHo", b"408"),  # a head that does not come
        (b"GET /ready HTTP/1.1\r\nX: " + b"x" * 70_000, b"431"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),  # TLS
    ):
        with socket.create_connection((service.host, service.port), timeout=20) as connection:
            connection.sendall(text)
            assert connection.recv(4096).split()[1] == expected


def test_nothing_that_was_sent_is_logged(service):
    secret = "a-secret-value"
    service.ask("POST", "/score", {"records": [{**RECORD, "age": secret, "user": secret}]})
    service.ask("POST", "/score", {"records": [{**RECORD, "user": {secret: 1}}]})
    service.ask("POST", f"/{secret}", secret)
    service.ask("POST", "/v2/models/clicks/infer", {"inputs": [{"name": secret}]})
    time.sleep(0.2)
    assert not [line for line in service.lines if secret in line]


def test_a_service_begins_with_a_run_or_not_at_all(run, tmp_path):
    broken = shutil.copytree(run, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    taken = socket.create_server(("127.0.0.1", 0))
    (tmp_path / "empty").write_text("")
    for arguments, message in (
        ((tmp_path / "none",), "holds no finished run"),
        ((broken,), f"{broken}/model.safetensors is missing or damaged"),
        ((run, "--port", str(taken.getsockname()[1])), "in use"),
        ((run, "--token-file", tmp_path / "empty"), "holds no token"),
    ):
        command = [sys.executable, "-m", "tablefold", "serve", "--port", "0", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": SOURCES})
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    taken.close()


class Load:
    """Clients that ask without a pause, until they are told to stop or an answer closes their connection."""

    def __init__(self, service, clients=4, headers=None):
        self.service, self.statuses, self.lost, self.versions = service, [], [], []
        self._headers = headers
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self):
        with closing(self.service.connect()) as connection:
            self._ask_on(connection)

    def _ask_on(self, connection):
        body = json.dumps({"records": [RECORD]})
        while not self._stop.is_set():
            try:
                status, headers, answer = self.service.ask("POST", "/score", body, self._headers, connection)
                self.versions.append(json.loads(answer).get("version"))
            except Exception as error:
                self.lost.append(repr(error))
                return
            self.statuses.append(status)
            if headers.get("connection") == "close":
                return

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


@pytest.mark.slow
def test_a_new_run_is_taken_over_and_a_bad_one_is_not(tmp_path):
    first, second = make_run(tmp_path, "first"), make_run(tmp_path, "second", seed=1)
    (tmp_path / "current").symlink_to("first")
    with serving(tmp_path / "current", "--watch", "--workers", "2") as service:
        load = Load(service)
        broken = shutil.copytree(second, tmp_path / "broken")
        (broken / "model.safetensors").write_bytes(b"nothing")
        replace_link(tmp_path / "current", "broken")
        service.wait_for("the new run is refused")
        expected = Scorer(second, "cpu").score([RECORD])
        replace_link(tmp_path / "current", "second")
        service.wait_for("a new run is taken over")
        until = time.monotonic() + 60
        while len(set(load.versions[-50:])) > 1 or load.versions[-1] == load.versions[0]:
            assert time.monotonic() < until
            time.sleep(0.1)
        time.sleep(0.5)
        load.stop()
        assert load.lost == []
        assert set(load.statuses) == {200}
        assert len(set(load.versions)) == 2
        np.testing.assert_allclose(service.score([RECORD])["scores"], expected, rtol=1e-5)
        shutil.rmtree(first)
        shutil.rmtree(second)  # what is served is the service's own
        assert service.score([RECORD])["version"] == load.versions[-1]


def replace_link(link, target):
    other = link.with_name("other")
    other.symlink_to(target)
    other.replace(link)


def mapping(process, file):
    """Kilobytes of a file that a process has mapped, by kind."""
    text = Path(f"/proc/{process}/smaps").read_text()
    sizes = {}
    for part in re.findall(rf"^[0-9a-f]+-[^\n]*/{file}\n((?:[A-Z]\w+:.*\n)+)", text, re.MULTILINE):
        for kind, size in re.findall(r"^(\w+): +(\d+) kB", part, re.MULTILINE):
            sizes[kind] = sizes.get(kind, 0) + int(size)
    return sizes


@pytest.mark.slow
def test_a_killed_process_is_replaced_and_the_others_serve_on(run):
    with serving(run, "--workers", "2") as service:
        before = service.workers()
        assert len(before) == 2
        for worker in before:
            for file in ("model.safetensors", "000000.index"):
                mapped = mapping(worker, file)
                assert mapped["Size"] > 0
                assert mapped["Private_Dirty"] == 0
                assert mapped["Shared_Clean"] + mapped["Shared_Dirty"] > 0 or file != "model.safetensors"
        os.kill(before[0], signal.SIGKILL)
        failures = 0
        for _ in range(100):  # connections of the killed one are gone; new ones are answered
            try:
                assert service.score([RECORD])["scores"]
            except OSError:
                failures += 1
        assert failures <= 1
        service.wait_for("it is replaced")
        until = time.monotonic() + 120
        while len(service.workers()) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        assert before[1] in service.workers()
        assert len(service.workers()) == 2
        service.process.kill()  # and with the service go its processes
        service.process.wait()
        until = time.monotonic() + 30
        while any(Path(f"/proc/{worker}").exists() for worker in before[1:]) and time.monotonic() < until:
            time.sleep(0.1)
        assert not Path(f"/proc/{before[1]}").exists()


def test_the_token_is_asked_for_and_no_request_is_lost_at_the_end(run):
    with serving(run, TABLEFOLD_TOKEN=TOKEN) as service:
        assert service.ask("GET", "/v2/health/live")[0] == 200
        wrong = ({}, {"Authorization": TOKEN}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": "Bearer "})
        for headers in wrong:
            for path in ("/score", "/v2/models/run/infer", "/metrics"):
                status, answer, _ = service.ask("GET" if path == "/metrics" else "POST", path, None, headers)
                assert (status, answer["www-authenticate"]) == (401, "Bearer")
        load = Load(service, headers={"Authorization": f"Bearer {TOKEN}"})
        until = time.monotonic() + 60
        while len(load.statuses) < 20 and time.monotonic() < until:
            time.sleep(0.05)
        service.process.send_signal(signal.SIGTERM)
        service.wait_for("ending")
        load.stop()
        assert service.end() == 0
        assert load.lost == []
        assert set(load.statuses) == {200}
        assert TOKEN not in "".join(service.lines)


def test_a_full_queue_and_a_long_wait_are_told(scorer):
    """The scorer does not end its first batch: one request waits, another is too many, and the first gives up."""
    released = threading.Event()

    class Slow:
        names, encoder = scorer.names, scorer.encoder

        def probabilities(self, dense, ids):
            released.wait(20)
            return scorer.probabilities(dense, ids)

    async def ask_three():
        batcher = Batcher(most_waiting=1, seconds=0.3)
        columns = [[RECORD[name]] for name in scorer.names]

        def job():
            return Job(Slow(), lambda: columns, lambda scores: (scores.probability.tobytes(), {}))

        first = asyncio.create_task(batcher.answer(job()))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(batcher.answer(job()))
        await asyncio.sleep(0.01)
        with pytest.raises(RefusedError, match="1 requests are waiting already") as full:
            await batcher.answer(job())
        for waiting in (first, second):
            with pytest.raises(RefusedError, match=r"no scores within 0\.3 s") as late:
                await waiting
            assert (late.value.status, late.value.headers) == (503, {"retry-after": "1"})
        assert full.value.status == 503
        released.set()
        good, _ = await Batcher(1, 20).answer(job())
        assert np.frombuffer(good, np.float32) == scorer.score([RECORD])
        batcher.close()

    asyncio.run(ask_three())


def test_an_answer_is_not_held_back():
    """asyncio turns Nagle's algorithm off for sockets that say they are TCP's; else an answer takes 40 ms."""
    with _listen(Service("run", port=0)) as listening:
        assert listening.proto == socket.IPPROTO_TCP
