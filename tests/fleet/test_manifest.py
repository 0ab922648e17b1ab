"""How a manifest of products is read."""

from __future__ import annotations

import pytest

from cflow_ad import Settings
from cflow_ad.errors import DataError, SettingsError
from cflow_ad.fleet.manifest import read_manifest


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        file = tmp_path / "manifest.csv"
        file.write_text("\n".join(lines) + "\n")
        return file

    return write


def test_a_line_has_its_own_settings_and_else_those_of_all(write, tmp_path):
    file = write(
        "product,good,preset,steps,strides",
        "screw,parts/screw,,50,",
        'nut,../nut,fast,,"8,16"',
        "washer,s3://bucket/washer,,,",
    )
    screw, nut, washer = read_manifest(file, changes={"steps": 7, "size": "64x64"})
    assert (screw.name, screw.good) == ("screw", str(tmp_path / "parts" / "screw"))
    assert nut.good == str(tmp_path.parent / "nut")
    assert washer.good == "s3://bucket/washer"
    assert screw.settings() == Settings(steps=50, size="64x64")
    assert nut.settings() == Settings.preset("fast", steps=7, size="64x64", strides=(8, 16))
    assert washer.settings() == Settings(steps=7, size="64x64")


def test_a_wrong_value_is_the_error_of_its_line_alone(write):
    file = write("product,good,steps", "a,a,-1", "b,b,many", "c,,3", "d,d,3")
    *wrong, right = read_manifest(file)
    for product, line, why in zip(wrong, (2, 3, 4), ("steps", "steps", "good"), strict=True):
        assert f"line {line}" in product.error
        assert why in product.error
        with pytest.raises(SettingsError, match=f"line {line}"):
            product.settings()
    assert right.settings().steps == 3


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["product,images", "a,b"], "no column 'good'"),
        (["product,good,speed", "a,b,1"], "unknown setting speed"),
        (["product,good", "a,b", "c,d", "a,e"], "line 4: the product 'a' is on line 2 already"),
        (["product,good", ",b"], "line 2: product ''"),
        (["product,good"], "no products are listed"),
    ],
)
def test_a_wrong_manifest_is_refused(write, lines, why):
    with pytest.raises((DataError, SettingsError), match=why):
        read_manifest(write(*lines))
