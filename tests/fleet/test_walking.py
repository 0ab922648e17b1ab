"""A folder is walked in one order, whatever its size."""

from __future__ import annotations

import os

from cflow_ad.fleet.walking import walk


def test_the_order_is_that_of_the_bytes_with_any_number_of_names_in_memory(tmp_path):
    names = ["a/1.png", "a/10.png", "a/2.png", "a-b.png", "a.png", "B.png", "c/d/e.png", "ä.png"]
    for name in [*names, ".hidden", "a/.hidden", ".folder/x.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12")
    expected = [(name, 2) for name in sorted(names, key=os.fsencode)]
    for most in (1, 2, 3, 100):
        assert list(walk(tmp_path, most=most)) == expected


def test_names_of_any_bytes_survive_sorting_in_files(tmp_path):
    names = [b"bad-\xff.png", b"new\nline.png", b"plain.png"]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(b"")
    assert [os.fsencode(name) for name, _ in walk(tmp_path, most=1)] == names


def test_links_that_lead_back_up_are_left_out(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "b" / "1.png").write_bytes(b"1")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    assert list(walk(tmp_path)) == [("a/b/1.png", 1)]
