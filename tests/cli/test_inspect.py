"""`tablefold inspect`."""

import re

import pytest

from tablefold.cli import main


def printed(capsys, *argv):
    """The printed sections, each a list of lines cut into cells."""
    assert main(["inspect", *argv]) == 0
    sections = capsys.readouterr().out.rstrip("\n").split("\n\n")
    return [[re.split(r" {2,}", line.strip()) for line in section.splitlines()] for section in sections]


def test_the_tables_of_a_dataset(capsys, data):
    found = printed(capsys, str(data), "--method", "qr:collisions=4", "--threshold", "10", "--dim", "8")
    heading, tables, sample, _, load, promise = found
    assert heading[0][0].startswith("qr:collisions=4,combine=mul, 1 table full: ")
    assert heading[1][0].startswith(
        "embeddings 4.42 kB, with pointers 4.42 kB, in training with AMSGrad 17.7 kB, with the"
    )
    assert tables[1] == ["user", "400", "qr", "2", "3.33 kB", "all, proved by arithmetic"]
    assert tables[3] == ["country", "7", "full", "1", "224 B", "all, proved by arithmetic"]
    assert sample[1][:4] == ["user", "400", "100 %", "100 %"]
    assert load[0] == ["ids that read a weight", "mean", "largest", "weights unread"]
    assert load[1][1:] == load[3][1:], "by arithmetic, with all ids sampled: expected is measured"
    assert promise[0][0].startswith("No id shares more than 0.5 of the weights it reads with any other id (docs")


def test_a_trillion_ids_without_a_dataset(capsys):
    argv = ["--rows", "1000000000000", "--dim", "16", "--method", "hash:by=mix,max_rows=1000", "--sample", "50000"]
    heading, tables, sample, _, load, promise = printed(capsys, *argv)
    assert heading[0][0] == "hash:max_rows=1000,by=mix: 64 kB, full tables 64 TB: compression 1e+09x"
    assert tables[1] == ["table1", "1,000,000,000,000", "hash", "1", "64 kB", "1e-07 %, expected"]
    assert sample[1][:4] == ["table1", "50,000", "2 %", "2 %"]
    assert float(sample[1][5]) == pytest.approx(0.001, rel=0.02)
    assert load[1][1] == "1,000,000,000"
    assert load[2][1] == load[3][1] == "50"
    assert promise[0][0].startswith("No bound")


def test_the_headline_of_ten_thousandfold_sharing(capsys):
    argv = ["--rows", "882774559", "--dim", "128", "--method", "robe:block=32,floats=2_700_000", "--sample", "100000"]
    heading, tables, sample, *_ = printed(capsys, *argv)
    assert "10.8 MB, full tables 452 GB" in heading[0][0]
    assert tables[1][-1] == "all, expected (7.3e-09 repeats)"
    assert sample[1][2:4] == ["100 %", "100 %"]
    assert sample[1][6] == "3.704e-07"


def test_a_budget_and_several_tables_that_share_memory(capsys):
    argv = ["--rows", "100_000", "--rows", "2000", "--rows", "1", "--method", "robe:block=4", "--compression", "100"]
    heading, tables, *_ = printed(capsys, *argv)
    assert heading[0][0].endswith("compression 100x")
    assert [row[2] for row in tables[1:]] == ["robe in int2", "robe in int2", "full"]
    assert [row[4] for row in tables[1:]] == ["65.2 kB shared"] * 2 + ["64 B"]
    assert printed(capsys, "--rows", "1000", "--method", "robe", "--budget", "4kB")[0][0][0].startswith("robe")


def test_what_is_computed_after_the_gather_is_left_out_and_said_so(capsys):
    text = printed(capsys, "--rows", "1000", "--method", "path:collisions=4")[-1][0][0]
    assert "path computes on it after the gather" in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give a dataset or --rows, one of the two"),
        (["somewhere", "--rows", "5"], "give a dataset or --rows, one of the two"),
        (["nowhere"], "nowhere holds no prepared dataset"),
        (["--rows", "5", "--method", "hash"], "hash needs a size"),
        (["--rows", "5", "--method", f"mixed_radix:k={'9' * 400}"], "mixed_radix: k=9999"),
        (["--rows", "5", "--method", "unified:rows=9000000000000000000"], "a memory of 72000000000000000000 floats is"),
        (["--rows", "5", "--method", "qr", "--budget", "1"], "a budget of 1 bytes is below"),
        (["--rows", "5", "--sample", "0"], "argument --sample: '0' is not an integer of at least 1"),
        (
            ["--rows", "1" + "0" * 21],
            "argument --rows: '1000000000000000000000' is more than 4,611,686,018,4",
        ),
    ],
)
def test_mistakes_are_one_line(capsys, argv, message):
    assert main(["inspect", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"tablefold inspect: {message}")
    assert captured.err.count("\n") == 1


def test_a_plan_is_shown_without_building_it(capsys, data):
    assert main(["plan", str(data), "--method", "qr", "--budget", "3kB", "--dim", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["table", "rows", "dim", "representation", "format", "bytes", "of", "full", "why"]
    assert [line.split()[0] for line in lines[1:4]] == ["user", "item", "country"]
    assert "the largest in 3 kB, in int4, best up to 64x" in lines[1]
    assert lines[5].startswith("compression ")
    assert lines[6].startswith("embeddings ")
    assert main(["plan", "--rows", "882774559", "--rows", "9", "--method", "robe", "--compression", "10000"]) == 0
    assert "small: all such tables take at most 1/16 of the budget" in capsys.readouterr().out
    clusters = ["plan", "--rows", "100000", "--method", "clusters", "--budget", "100KB"]
    assert main(clusters) == 0
    assert "embeddings 100 kB, with pointers 262 kB" in capsys.readouterr().out
    assert main([*clusters, "--with-pointers"]) == 0
    assert "with pointers 89.1 kB" in capsys.readouterr().out
    assert main(["plan", "--rows", "1000", "--method", "qr", "--budget", "10"]) == 2
    error = capsys.readouterr().err
    assert "below the smallest possible for qr here, 288 bytes in int2: raise the budget, or take clusters" in error
    assert error.count("\n") == 1
    assert main(["plan", "--rows", "1000", "--storage", "fp16"]) == 2
    assert "format 'fp16' must be one of" in capsys.readouterr().err
    assert main(["plan"]) == 2
    assert "plan DIR, or plan --rows 1000000" in capsys.readouterr().err
