"""Laws of objects, in a folder and in an object store that refuses one request in twenty."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from cflow_ad.errors import StoreError
from cflow_ad.fleet.objects import Folder, MissingObjectError, open_objects


def test_an_object_is_written_once(place):
    objects = open_objects(place)
    assert objects.create("a/b", b"first")
    assert not objects.create("a/b", b"second")
    assert objects.create("a/b", b"first")  # it is there already, and the same
    assert objects.read("a/b") == b"first"


def test_of_many_writers_one_wins(place):
    objects = open_objects(place)
    contents = [bytes([number]) * 1000 for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda content: objects.create("pointer", content), contents))
    assert sum(won) == 1
    assert objects.read("pointer") == contents[won.index(True)]


def test_objects_are_listed_in_order(place):
    objects = open_objects(place)
    keys = ["a/1", "a/10", "a/2", "a b/%2F", "a-b", "c/d/e", "ü"]
    for number, key in enumerate(keys):
        objects.create(key, b"x" * number)
    expected = sorted(keys, key=str.encode)
    assert list(objects.keys()) == expected
    assert list(objects.entries("a/")) == [("a/1", 0), ("a/10", 1), ("a/2", 2)]
    assert list(objects.entries("nothing/")) == []


def test_a_missing_object_is_named(place):
    objects = open_objects(place)
    assert not objects.exists("a/b")
    with pytest.raises(MissingObjectError, match="there is no a/b"):
        objects.read("a/b")
    with pytest.raises(MissingObjectError, match="there is no a/b"):
        objects.open("a/b")


def test_objects_open_as_files(place):
    objects = open_objects(place)
    large = bytes(range(256)) * 8192
    assert objects.create("large", large)
    with objects.open("large") as file:
        assert file.read(3) == b"\0\1\2"
        assert file.seek(256) == 256
        assert file.read() == large[256:]


def test_refused_requests_are_repeated(bucket, refused):
    objects = open_objects(bucket)
    for number in range(60):
        assert objects.create(f"{number:02}", b"%d" % number)
    assert [objects.read(f"{number:02}") for number in range(60)] == [b"%d" % n for n in range(60)]
    assert len(refused) >= 6
    assert {line.split()[0] for line in refused} == {"PUT", "GET"}


def test_what_is_no_place_is_refused():
    pytest.importorskip("obstore")
    for url in ("ftp://a/b", "http://a/b", "s3://"):
        with pytest.raises(StoreError):
            open_objects(url)


def test_an_unfinished_file_is_not_listed(tmp_path, monkeypatch):
    objects = Folder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("cflow_ad.fleet.objects._link", lambda new, path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            objects.create("a", b"1")
    assert list(objects.keys()) == []
    assert objects.create("a", b"1")


def test_without_hard_links_a_name_is_still_taken_once(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr("os.link", refuse)
    objects = Folder(tmp_path)
    assert objects.create("a", b"1")
    assert not objects.create("a", b"2")
    assert objects.read("a") == b"1"
