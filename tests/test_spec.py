"""Spec strings: what is written is read back, and what is mistyped is answered with the way out."""

import pytest

from tablefold import Method, Robe, TableSpec, all_methods, parse, spec


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


def test_a_budget_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="a budget of nan bytes is below the smallest possible"):
        parse("hash").for_budget([TableSpec("a", 1000, 4)], float("nan"))
