"""Keyed hashes in the place of raw values."""

import numpy as np
import polars as pl
import pytest

from raw_logs import criteo_lines, read_dictionary, tree
from tablefold.data import Dataset
from tablefold.data.criteo import Criteo
from tablefold.data.encoder import Encoder
from tablefold.data.encoder_folder import EncoderFolder, check_encoder, save_encoder
from tablefold.data.interactions import Interactions, prepare_interactions
from tablefold.data.joined import join
from tablefold.data.lines import MISSING
from tablefold.data.preparation import Options, prepare
from tablefold.data.private import (
    Private,
    find_secret,
    fingerprint,
    hash_digits,
    hash_keys,
    keys_of_digits,
    read_secret,
    write_secret,
)
from tablefold.data.table import Columns, Table

WORD = (1 << 64) - 1
SECRET = bytes(range(16))


def siphash(message, key):
    """SipHash-2-4 as its paper has it, in Python's integers."""

    def turn(word, bits):
        return (word << bits | word >> (64 - bits)) & WORD

    def mix(v, rounds):
        for _ in range(rounds):
            v[0] = (v[0] + v[1]) & WORD
            v[2] = (v[2] + v[3]) & WORD
            v[1], v[3] = turn(v[1], 13) ^ v[0], turn(v[3], 16) ^ v[2]
            v[0] = turn(v[0], 32)
            v[2] = (v[2] + v[1]) & WORD
            v[0] = (v[0] + v[3]) & WORD
            v[1], v[3] = turn(v[1], 17) ^ v[2], turn(v[3], 21) ^ v[0]
            v[2] = turn(v[2], 32)

    low, high = (int.from_bytes(key[start : start + 8], "little") for start in (0, 8))
    text = b"somepseudorandomlygeneratedbytes"
    v = [int.from_bytes(text[start : start + 8], "big") for start in range(0, 32, 8)]
    v = [v[0] ^ low, v[1] ^ high, v[2] ^ low, v[3] ^ high]
    message += bytes((7 - len(message)) % 8) + bytes([len(message) % 256])
    for start in range(0, len(message), 8):
        word = int.from_bytes(message[start : start + 8], "little")
        v[3] ^= word
        mix(v, 2)
        v[0] ^= word
    v[2] ^= 0xFF
    mix(v, 4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_the_hash_is_siphash():
    assert siphash(bytes(range(15)), SECRET) == 0xA129CA6149BE45E5  # the example of the paper
    keys = np.random.default_rng(0).integers(-(2**63), 2**63, 50)
    keys[:4] = [0, 1, -1, int.from_bytes(bytes(range(8)), "little")]
    expected = [siphash(key.tobytes(), SECRET) for key in keys.astype("<i8")]
    assert hash_keys(keys, SECRET).view(np.uint64).tolist() == expected
    assert hash_keys(np.array([[3, MISSING]]), SECRET)[0, 1] == MISSING


def test_hashes_are_written_as_digits_and_read_back():
    keys = np.append(np.random.default_rng(0).integers(-(2**63), 2**63, 20), 0)
    values = [text.decode() for text in hash_digits(keys)]
    assert keys_of_digits(values).tolist() == keys.tolist()
    assert keys_of_digits([None]).tolist() == [MISSING]
    for wrong in ("", "12", "g" * 16, "0" * 17):
        with pytest.raises(ValueError, match="is no hash of 16 hex digits"):
            keys_of_digits([wrong, "0" * 16])


@pytest.fixture
def secret(tmp_path):
    return find_secret(tmp_path / "secret")


def test_a_secret_is_made_once_and_read_back(tmp_path, secret):
    assert find_secret(tmp_path / "secret") == secret == read_secret(tmp_path / "secret")
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0
    for wrong in ("", "ab" * 15, "zz" * 16):
        (tmp_path / "wrong").write_text(wrong)
        with pytest.raises(ValueError, match="wrong holds no secret of 32 hex digits"):
            find_secret(tmp_path / "wrong")


def write_table(folder):
    """A log of users and cities, one of its lines malformed."""
    lines = [f"user-{row % 17},{'city' + str(row % 5) if row % 9 else ''},{row % 2}" for row in range(300)]
    (folder / "log.csv").write_text("\n".join(["user,city,clicked", *lines, "user-bad,rome,maybe"]) + "\n")
    return Table((str(folder / "log.csv"),), Columns("clicked", ("user", "city")))


def write_clicks(folder):
    (folder / "log.txt").write_text("\n".join(criteo_lines(200)) + "\n")
    return Criteo((str(folder / "log.txt"),))


def ids_of(folder, part="train"):
    return np.concatenate([batch.ids.numpy() for batch in Dataset(folder).part(part).batches(99)])


def is_bijection(one, other):
    """Whether the ids of both name the same values, per column."""
    pairs = [set(zip(one[:, n].tolist(), other[:, n].tolist(), strict=True)) for n in range(one.shape[1])]
    return all(len({a for a, _ in each}) == len({b for _, b in each}) == len(each) for each in pairs)


@pytest.mark.parametrize("write", [write_table, write_clicks])
@pytest.mark.parametrize("ids", ["dictionary", "hash"])
def test_a_private_log_has_the_rows_of_the_open_one_and_no_value(tmp_path, secret, write, ids):
    source, options = write(tmp_path), Options(ids=ids, max_rejects=0.1)
    prepare(source, tmp_path / "open", options)
    schema = prepare(Private(source, secret), tmp_path / "hidden", options)
    assert schema.source["private"] == fingerprint(secret)
    assert is_bijection(ids_of(tmp_path / "open"), ids_of(tmp_path / "hidden"))
    for number, table in enumerate(schema.tables if ids == "dictionary" else ()):
        dictionary = pl.read_parquet(tmp_path / "hidden" / f"dictionary/{number:06d}.parquet")
        assert dictionary["value"].str.contains("^[0-9a-f]{16}$").all()
        assert sorted(dictionary["count"]) == sorted(read_dictionary(tmp_path / "open", table.name)["count"])
    content = b"".join(tree(tmp_path / "hidden").values())
    assert b"user-" not in content
    assert b"rome" not in content
    if write is write_table:
        assert pl.read_parquet(tmp_path / "hidden" / "rejects.parquet")["reason"].to_list() == [
            "field clicked is not 0 or 1"
        ]
    save_encoder(Dataset(tmp_path / "hidden"), tmp_path / "encoder")
    encoder = Encoder(tmp_path / "encoder", schema.dense, schema.tables)
    found = np.concatenate([piece.ids for piece in encoder.read(source.files[0])])
    train = ids_of(tmp_path / "hidden")
    assert np.array_equal(found[: len(train)], train)


def test_a_private_log_is_prepared_again_to_the_same_bytes(tmp_path, secret):
    source, options = write_table(tmp_path), Options(max_rejects=0.1)
    for name in ("one", "other"):
        prepare(Private(source, secret), tmp_path / name, options)
    assert tree(tmp_path / "one") == tree(tmp_path / "other")


def test_private_interactions_hold_no_value(tmp_path, secret):
    pairs = [(f"ann-{user}", item, f"tall-{user % 3}") for user in range(20) for item in range(user % 7, 40, 3)]
    pl.DataFrame(pairs, schema=["user", "item", "size"], orient="row").write_parquet(tmp_path / "log.parquet")
    source = Interactions(str(tmp_path / "log.parquet"), "user", "item", user_columns=("size",), side_tables=True)
    prepare_interactions(source, tmp_path / "hidden", secret)
    dataset = Dataset(tmp_path / "hidden")
    content = b"".join(tree(tmp_path / "hidden").values())
    assert b"ann-" not in content
    assert b"tall-" not in content
    save_encoder(dataset, tmp_path / "encoder")
    encoder = Encoder(tmp_path / "encoder", (), dataset.schema.tables)
    users, items, sizes = (np.array(each) for each in zip(*pairs, strict=True))
    found = encoder.read_values([users.tolist(), items.tolist(), sizes.tolist()], "pairs").ids
    assert [len(set(found[:, n].tolist())) for n in range(3)] == [20, len(set(items.tolist())), 3]
    assert len({tuple(row) for row in found[:, [0, 2]].tolist()}) == 20
    assert not encoder.read_values([["bob"], [1], ["tall-1"]], "pairs").fits.any()


def test_data_under_another_secret_is_refused(tmp_path, secret):
    source, options = write_table(tmp_path), Options(max_rejects=0.1)
    prepare(Private(source, secret), tmp_path / "hidden", options)
    prepare(Private(source, find_secret(tmp_path / "secret 2")), tmp_path / "other", options)
    prepare(source, tmp_path / "open", options)
    schema = Dataset(tmp_path / "hidden").schema
    (tmp_path / "run").mkdir()
    save_encoder(Dataset(tmp_path / "hidden"), tmp_path / "run" / "encoder")
    run = EncoderFolder.read(tmp_path / "run" / "encoder", (), schema.tables)
    for name in ("other", "open"):
        with pytest.raises(ValueError, match="hold no hashes under the same secret") as error:
            join(Dataset(tmp_path / name), run)
        assert str(error.value).isprintable()
    prepare(Private(source, secret), tmp_path / "again", Options(max_rejects=0.1, permute_ids=3))
    joined = join(Dataset(tmp_path / "again"), run)
    batches = zip(joined.part("train").batches(50), Dataset(tmp_path / "hidden").part("train").batches(50), strict=True)
    assert all((one.ids == other.ids).all() for one, other in batches)


def test_without_its_secret_raw_values_cannot_be_read(tmp_path, secret):
    prepare(Private(write_table(tmp_path), secret), tmp_path / "hidden", Options(max_rejects=0.1))
    dataset = Dataset(tmp_path / "hidden")
    save_encoder(dataset, tmp_path / "encoder")
    write_secret(b"?" * 16, tmp_path / "encoder" / "secret")
    for message in ("secret is not the secret under which", "secret is missing, and raw values are hashed under"):
        with pytest.raises(ValueError, match=message):
            Encoder(tmp_path / "encoder", (), dataset.schema.tables)
        (tmp_path / "encoder" / "secret").unlink(missing_ok=True)
    (tmp_path / "hidden" / "secret").unlink()
    with pytest.raises(ValueError, match="secret is missing, and raw values are hashed under"):
        check_encoder(dataset)
