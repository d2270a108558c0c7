"""`tablefold inspect RUN`: what serving it takes."""

import re

import pytest

from serving.services import make_run
from tablefold.cli import main
from tablefold.serving.run_latency import measure_serving
from tablefold.train import load_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("latency"))


def test_bytes_and_milliseconds_are_shown(run, capsys):
    assert main(["inspect", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        *("embeddings", "with pointers", "in training", "in its files", "in the process", "unseen values"),
        *("1 row", "512 rows"),
    ]
    assert lines[5].endswith("2.3e-18 are the odds that one is taken for a value of training")  # 42 / 2^64
    assert all(float(re.search(r"([0-9.]+) ms", line)[1]) > 0 for line in lines[6:])


def test_the_bytes_are_those_of_the_run(run):
    found = measure_serving(run, seconds=0.05)
    used = [run / "config.json", run / "model.safetensors", run / "encoder" / "encoder.json"]
    used += (run / "encoder" / "dictionary").glob("*.index")  # the values themselves are not needed
    assert found.file_bytes == sum(path.stat().st_size for path in used)
    model = load_run(run).model
    assert found.weight_bytes >= model.group.num_bytes
    assert found.weight_bytes <= model.group.num_bytes + 4 * model.num_network_parameters + 1000
    assert found.lookup_bytes == 2 * 4 * 257 + 11 * (40 + 9)  # 256 buckets each; 7 bytes of key and 4 of id a value
