import numpy as np
import pytest

from tablefold.tables import MAX_ROWS, TableSpec, check_tables, common_dim, full_bytes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "", "rows": 1, "dim": 1}, "needs a name"),
        ({"name": "t", "rows": 0, "dim": 1}, "rows=0 must lie in 1"),
        ({"name": "t", "rows": MAX_ROWS + 1, "dim": 1}, f"rows={MAX_ROWS + 1} must lie in"),
        ({"name": "t", "rows": 1, "dim": 0}, "dim=0 must be at least 1"),
        ({"name": "t", "rows": 10.5, "dim": 4}, "table 't': rows=10.5 must be an integer"),
        ({"name": "t", "rows": True, "dim": 4}, "table 't': rows=true must be an integer"),
        ({"name": "t", "rows": 10, "dim": "4"}, "table 't': dim='4' must be an integer"),
        ({"name": "t", "rows": 10, "dim": None}, "table 't': dim=null must be an integer"),
        ({"name": "t", "rows": 10, "dim": 10**400}, "dim=1000.* must fit into 64 bits: take at most"),
        ({"name": 5, "rows": 10, "dim": 4}, "name=5 must be text"),
    ],
)
def test_impossible_tables_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TableSpec(**arguments)


def test_integers_of_numpy_are_taken_as_pythons_own():
    table = TableSpec("t", np.uint8(200), np.int64(4))
    assert table == TableSpec("t", 200, 4)
    assert {type(table.rows), type(table.dim)} == {int}


def test_open_vocabulary_has_no_bytes():
    with pytest.raises(ValueError, match="'t' has an open vocabulary"):
        _ = TableSpec("t", rows=None, dim=4).num_bytes


def test_groups_need_tables_with_names_of_their_own():
    one, other = TableSpec("a", 3, 4), TableSpec("b", 3, 8)
    with pytest.raises(ValueError, match="at least one table"):
        check_tables([])
    with pytest.raises(ValueError, match=r"a bag needs tables of one dim; got 4, 8"):
        common_dim([one, other], "a bag")
    assert common_dim([one, one], "a bag") == 4
    with pytest.raises(ValueError, match="two tables are named 'a'"):
        check_tables([one, one])


def test_full_bytes_of_the_criteo_kaggle_tables(kaggle_tables):
    assert full_bytes(kaggle_tables) == 540_201_232 * 4
