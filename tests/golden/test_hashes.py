"""Addresses, start values and the order of batches are those of release 0.1, bit for bit.

A saved model is worthless once an id reads other addresses, and a training that goes on must see the rows it would have
seen. `digests.py` says what is hashed.
"""

import json
from pathlib import Path

from golden.digests import ADDRESSES, LATER, address_digests, batch_digests, start_digests
from tablefold import all_methods

GOLDEN = json.loads((Path(__file__).parent / "hashes.json").read_text())


def test_every_method_of_old_is_there():
    for kind in ("small", "large"):
        assert {spec.partition(":")[0] for spec in ADDRESSES[kind]} == set(all_methods()) - LATER


def test_ids_read_the_addresses_of_old():
    assert changed(address_digests(), GOLDEN["addresses"]) == []


def test_memory_starts_as_of_old():
    assert changed(start_digests(), GOLDEN["starts"]) == []


def test_batches_come_in_the_order_of_old(tmp_path):
    assert changed(batch_digests(tmp_path), GOLDEN["batches"]) == []


def test_another_seed_gives_another_digest():
    """A digest of nothing would be the same for all."""
    for spec in ("robe:block=8,floats=1000", "hash:collisions=2.5,by=mix", "unified:lookups=2,rows=200"):
        assert GOLDEN["addresses"][f"{spec} small seed 0"] != GOLDEN["addresses"][f"{spec} small seed 3"]
    for spec in ADDRESSES["small"]:
        assert GOLDEN["starts"][f"{spec} seed 0"] != GOLDEN["starts"][f"{spec} seed 3"]
    assert len(set(GOLDEN["batches"].values())) == len(GOLDEN["batches"]) == 9


def changed(now, then):
    """What is another now, or is missing on one side."""
    return sorted(name for name in {*now, *then} if now.get(name) != then.get(name))
