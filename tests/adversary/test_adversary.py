"""Each script of the adversary at a short form, in seconds; at its full one, in many minutes, with `pytest -m slow`."""

import pytest

from adversary import bad_calls, flipped_bits, kills, malformed_requests, mutated_lines, tampered_files
from adversary.harness import Report

SCRIPTS = {
    "bad_calls": (bad_calls.torment, 40, 1_950),
    "mutated_lines": (mutated_lines.torment, 2_000, 1_000_000),
    "malformed_requests": (malformed_requests.torment, 1_000, 20_000),
    "kills": (kills.torment, 2, 60),
    "flipped_bits": (flipped_bits.torment, 32, 800),
    "tampered_files": (tampered_files.torment, 40, 700),
}


def torment(name, count):
    report = Report(name)
    SCRIPTS[name][0](report, count, seed=0)
    assert report.tried >= count
    assert not report.violations, report.kinds()


@pytest.mark.parametrize("name", SCRIPTS)
def test_short(name):
    torment(name, SCRIPTS[name][1])


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_full(name):
    torment(name, SCRIPTS[name][2])
