"""`tablefold methods`."""

from tablefold import all_methods
from tablefold.cli import main


def test_every_method_is_listed_with_its_options_and_when_to_use_it(capsys):
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    for name, kind in all_methods().items():
        assert f"{name}: {kind.summary}\n" in text
    qr = text.split("\n\n")[sorted(all_methods()).index("qr")].splitlines()
    assert qr[1].split() == ["collisions", "a", "number", "default", "none,", "a", "size"]
    assert ["combine", "mul | add | concat | features", "default mul"] in [
        [part.strip() for part in line.strip().split("  ") if part] for line in qr
    ]
    assert "full: every id owns a row; what others are measured against\n  no options" in text


def test_one_method_is_described_in_full(capsys):
    assert main(["methods", "robe"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("robe: ")
    assert "qr: " not in text
    assert "When to use it" in text


def test_an_unknown_method_is_refused_in_one_line(capsys):
    assert main(["methods", "rob"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tablefold methods: no method 'rob' (did you mean 'robe'?); methods: ")
    assert captured.err.count("\n") == 1
