"""Spec strings: what is written is read back, and what is mistyped is answered with the way out."""

import numpy as np
import pytest

from tablefold import Custom, Hash, Method, MixedRadix, Robe, TableSpec, all_methods, parse, spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qr:colisions=4", r"qr has no option 'colisions' \(did you mean 'collisions'\?\); options: collisions,"),
        ("rob", r"no method 'rob' \(did you mean 'robe'\?\); methods: "),
        ("", "no method ''; methods: "),
        ("full:block=4", "full has no option 'block'; options: none"),
        ("robe:block", "option 'block' needs a value, as in block="),
        ("robe:block=", "option 'block' needs a value"),
        ("robe:block=4,block=8", "option 'block' is given twice"),
        ("robe:block=4.5", "robe: block=4.5: expected an integer"),
        ("robe:sign=maybe", r"robe: sign=maybe: expected true \| false"),
        ("qr:combine=max", r"qr: combine=max: expected mul \| add \| concat \| features"),
        ("qr:collisions=four", "qr: collisions=four: expected a number"),
    ],
)
def test_mistakes_are_answered_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


HUGE = "9" * 400


@pytest.mark.parametrize(
    "text",
    [
        f"mixed_radix:k={HUGE}",
        f"unified:rows={HUGE}",
        f"robe:floats={HUGE}",
        f"hash:max_rows={HUGE}",
        f"mixed_radix:moduli={HUGE}x5",
    ],
)
def test_integers_beyond_64_bits_are_refused(text):
    message = r"=9+ \.\.\. 9+ must fit into 64 bits: take at most 9223372036854775807"
    with pytest.raises(ValueError, match=message) as caught:
        parse(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["mixed_radix", "chinese_remainder", "path", "hash_embeddings"])
def test_more_parts_than_an_id_has_bits_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: k=65 must be at least . and at most 64"):
        parse(f"{name}:k=65")
    assert parse(f"{name}:k=64")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("unified:rows=9000000000000000000", "a memory of 72000.* floats is beyond the largest, 4611686018427387904"),
        ("mixed_radix:moduli=9000000000000000000x9000000000000000000", "a memory of .* floats is beyond the largest"),
        ("mixed_radix:moduli=4000000000x4000000000x4000000000", "a partition computes in 64 bits: 16000000000"),
    ],
)
def test_sizes_whose_addresses_would_overflow_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        parse(spec).address_map([TableSpec("a", 1000, 16)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Robe(block=1.5, floats=9), "robe: block=1.5 must be an integer"),
        (lambda: Robe(block=4, floats=90.0), "robe: floats=90.0 must be an integer"),
        (lambda: Robe(block=True), "robe: block=true must be an integer"),
        (lambda: MixedRadix(moduli=(3, 4.5)), "mixed_radix: moduli=4.5 must be an integer"),
        (lambda: MixedRadix(moduli=7), "mixed_radix: moduli=7 must be a list of integers"),
        (lambda: MixedRadix(moduli=(2,) * 65), "mixed_radix: 65 moduli are too many: take at most 64"),
        (lambda: Hash(collisions="x"), "hash: collisions='x' must be a number"),
        (lambda: Custom(lookup=5), "custom: lookup=5 must be text"),
        (lambda: Method.from_json({"method": "qr", "max_rows": 2.5}), "qr: max_rows=2.5 must be an integer"),
    ],
)
def test_options_of_another_type_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_integers_of_numpy_are_taken_as_pythons_own():
    method = MixedRadix(moduli=[np.int64(40), np.uint8(30)])
    assert method == MixedRadix(moduli=(40, 30))
    assert {type(modulus) for modulus in method.moduli} == {int}
    assert str(Robe(block=np.int32(8), floats=np.int64(100))) == "robe:block=8,floats=100"


def test_spaces_and_underscores_are_read():
    assert parse(" robe: block=8, floats=1_000 ") == Robe(block=8, floats=1000)


@pytest.mark.parametrize("text", ["full", "hash:collisions=4", "qr:collisions=4,combine=mul", "robe:block=16"])
def test_the_specs_of_the_documentation_are_written_as_read(text):
    assert str(parse(text)) == text


def test_json_with_an_unknown_option_is_refused():
    with pytest.raises(ValueError, match="robe has no option 'blok'"):
        Method.from_json({"method": "robe", "blok": 3})


def test_options_are_described_for_every_method():
    for kind in all_methods().values():
        for option, kinds, default in spec.describe(kind):
            assert option
            assert kinds
            assert default


def test_a_method_that_is_none_is_cut_in_the_error():
    with pytest.raises(ValueError, match="no method 'fullfull") as caught:
        parse("full" * 10**5)
    assert len(str(caught.value)) < 500
    with pytest.raises(ValueError, match="no method ''"):
        Method.from_json({})
