"""Laws of listing images: a natural order, and a plain sentence where there are none."""

import pytest

from cflow_ad.data.listing import IMAGE_SUFFIXES, list_images
from cflow_ad.errors import DataError


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_images_are_listed_in_natural_order(tmp_path):
    touch(tmp_path, "10.png", "2.PNG", "1.jpeg", "b2.tif", "B1.webp", "a.txt", ".3.png", "._2.png")
    (tmp_path / "folder.png").mkdir()
    names = [path.name for path in list_images(tmp_path)]
    assert names == ["1.jpeg", "2.PNG", "10.png", "B1.webp", "b2.tif"]
    assert all(path.parent == tmp_path for path in list_images(str(tmp_path)))


def test_recursive_listing(tmp_path):
    touch(tmp_path, "c10/1.png", "c2/d/1.png", "c2/2.png", "1.png", ".hidden/1.png")
    (tmp_path / "c2" / "up").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path, True)]
    assert found == ["1.png", "c2/2.png", "c2/d/1.png", "c10/1.png"]
    assert [path.name for path in list_images(tmp_path)] == ["1.png"]


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_suffix_is_found(tmp_path, suffix):
    touch(tmp_path, f"a{suffix}", f"b{suffix.upper()}")
    assert len(list_images(tmp_path)) == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "it is empty"),
        (["a.txt", "b.txt", "c.TXT", "README"], r"3 \.txt files, 1 suffixless file"),
        (["a.1", "a.2", "a.3", "a.4", "a.5"], "and 2 more"),
        (["x/1.png", "notes.txt"], "in its sub-folders, such as x"),
        (["x/1.txt"], "only sub-folders"),
        ([".a.png"], "it is empty"),
    ],
)
def test_no_images(tmp_path, names, message):
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=message) as caught:
        list_images(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: no images there (looked for .bmp .jpeg")


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        list_images(tmp_path / "x")
    touch(tmp_path, "a.png")
    with pytest.raises(DataError, match="is a file"):
        list_images(tmp_path / "a.png")
