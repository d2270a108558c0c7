import os

import pytest

from tablefold.files import check_unused, new_file, new_folder


def test_folder_appears_whole(tmp_path):
    out = tmp_path / "deep" / "out"
    with new_folder(out) as folder:
        (folder / "a").write_text("1")
        assert not out.exists()
    assert (out / "a").read_text() == "1"
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert out.stat().st_mode & 0o777 == (tmp_path / "deep").stat().st_mode & 0o777


def fill(path, content="", error=None, meanwhile=None):
    with new_folder(path) as folder:
        (folder / "mine").write_text(content)
        if meanwhile:
            meanwhile()
        if error:
            raise error


def rewrite(path, content, error=None):
    with new_file(path) as file:
        file.write_text(content)
        if error:
            raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_nothing_left_on_error(tmp_path, error):
    with pytest.raises(error):
        fill(tmp_path / "out", error=error)
    assert list(tmp_path.iterdir()) == []


def test_taken_folder_is_refused_before_the_work(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(ValueError, match="already holds something"), new_folder(tmp_path / "out"):
        pytest.fail("the block must not run")
    assert (tmp_path / "out" / "mine").read_text() == "precious"


def test_empty_folder_is_taken_over(tmp_path):
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
    assert (tmp_path / "out" / "a").exists()


def test_file_in_the_way(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(ValueError, match="is a file"), new_folder(tmp_path / "out"):
        pass
    with pytest.raises(ValueError, match="is a file, not a folder"), new_folder(tmp_path / "out" / "in"):
        pass


def test_folder_filled_in_the_meantime_is_kept(tmp_path):
    def someone_else():
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").touch()

    with pytest.raises(ValueError, match="already holds"):
        fill(tmp_path / "out", meanwhile=someone_else)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs"]


def test_new_file(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError):
        rewrite(tmp_path / "a", "new", RuntimeError)
    assert (tmp_path / "a").read_text() == "old"
    rewrite(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="is a folder"):
        rewrite(tmp_path, "new")


@pytest.mark.parametrize("target", ["nothing", "full", "empty"])
def test_a_link_is_no_name_for_a_new_folder(tmp_path, target):
    """Not at the end of the work either: renaming a folder to a link fails."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / target)
    with pytest.raises(ValueError, match=r"out is a link to .*; name the folder itself"), new_folder(tmp_path / "out"):
        pytest.fail("the block must not run")
    assert {path.name for path in tmp_path.iterdir()} == {"full", "empty", "out"}


def test_a_file_is_written_where_a_link_leads(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "file")
    for content in ("one", "two"):
        rewrite(tmp_path / "link", content)
        assert (tmp_path / "deep" / "file").read_text() == content
        assert (tmp_path / "link").is_symlink()


def test_what_is_no_file_is_not_replaced(tmp_path):
    """A device or a pipe would vanish."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(ValueError, match="is no file, but a pipe or a device; name a file"):
            rewrite(path, "new")
    assert (tmp_path / "pipe").is_fifo()


def test_a_name_that_must_be_new(tmp_path):
    assert check_unused(tmp_path / "new") == tmp_path / "new"
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link", "."):
        with pytest.raises(ValueError, match="is there already; name a new file or remove it first"):
            check_unused(tmp_path / name)


def test_no_folder_made_on_the_way_is_left(tmp_path):
    for write in (fill, rewrite):
        with pytest.raises(ValueError, match="wrong"):
            write(tmp_path / "a" / "b" / "out", "", ValueError("wrong"))
        assert list(tmp_path.iterdir()) == []
