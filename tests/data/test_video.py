"""Laws of frames from videos; what decodes them is optional."""

import sys

import numpy as np
import pytest
from PIL import Image

from cflow_ad.data.listing import list_images
from cflow_ad.errors import DataError
from tests.cli.commands import refused


@pytest.fixture
def clips(tmp_path):
    av = pytest.importorskip("av")
    for name in ("01_001.avi", "01_002.avi"):
        with av.open(str(tmp_path / name), "w") as video:
            stream = video.add_stream("mjpeg", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
            for index in range(7):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 30 * index, np.uint8))
                video.mux(stream.encode(frame))
            video.mux(stream.encode())
    return tmp_path


def test_frames_keep_their_place_in_the_video(clips):
    from cflow_ad.data.video import extract_frames

    done = []
    n = extract_frames(clips, clips / "out", every=3, progress=lambda *c: done.append(c))
    assert n == 6
    assert done[-1] == (14, 14)
    names = [path.name for path in list_images(clips / "out" / "01_002")]
    assert names == ["000000.png", "000003.png", "000006.png"]
    with Image.open(clips / "out" / "01_001" / "000003.png") as image:
        assert image.size == (64, 48)
        assert abs(np.asarray(image).mean() - 90) < 4
    assert extract_frames(clips / "01_001.avi", clips / "one") == 7


def test_what_is_no_video(clips):
    from cflow_ad.data.video import extract_frames

    (clips / "bad.avi").write_text("text")
    with pytest.raises(DataError, match=r"bad\.avi: this is no video that can be decoded"):
        extract_frames(clips / "bad.avi", clips / "out")
    with pytest.raises(DataError, match="no such folder"):
        extract_frames(clips / "absent", clips / "out")
    (clips / "empty").mkdir()
    with pytest.raises(DataError, match="no videos there"):
        extract_frames(clips / "empty", clips / "out")


def test_without_pyav_the_command_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    line = refused("data", "frames", tmp_path, tmp_path / "out")
    assert "pip install 'cflow-ad[video]'" in line
