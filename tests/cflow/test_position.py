"""The position encoding is the paper's, and falls apart into a column's and a row's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cflow_ad.cflow.position import FRAME, axis_places, encode_axis
from tests.cflow.oracle import encode_position, encode_positions


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (64, 2)])
@pytest.mark.parametrize("channels", [4, 12, 128])
def test_every_position_follows_the_formula(height, width, channels):
    code = encode_positions(height, width, channels)
    expected = [[encode_position(r, c, channels) for c in range(width)] for r in range(height)]
    assert code.shape == (height, width, channels)
    np.testing.assert_allclose(code.numpy(), expected, atol=1e-6)


def test_far_positions_keep_their_digits():
    """In single precision the angle of a far position would be off by more than this."""
    code = encode_axis(torch.arange(8192), 64)
    np.testing.assert_allclose(code[-1].numpy(), encode_position(0, 8191, 128)[:64], atol=1e-7)


def test_the_first_half_is_of_the_column_and_the_second_of_the_row():
    code = encode_positions(4, 6, 16)
    columns, rows = code.chunk(2, dim=-1)
    assert torch.equal(columns, encode_axis(torch.arange(6), 8).expand(4, 6, 8))
    assert torch.equal(rows, encode_axis(torch.arange(4), 8)[:, None].expand(4, 6, 8))


def test_no_two_positions_share_a_code():
    code = encode_positions(64, 64, 128).flatten(0, 1)
    assert torch.cdist(code, code).fill_diagonal_(torch.inf).min() > 0.1


def test_a_longer_axis_begins_with_the_shorter_one():
    assert torch.equal(encode_axis(torch.arange(100), 64)[:7], encode_axis(torch.arange(7), 64))


def test_no_channels_give_an_empty_code():
    assert encode_positions(3, 5, 0).shape == (3, 5, 0)


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_relative_positions_are_the_absolute_ones_in_the_frame_and_scale_with_the_image(stride):
    cells = FRAME // stride

    def encoded(cells):
        return encode_axis(torch.arange(FRAME), 64, stride=stride)[axis_places(cells, "relative")]

    absolute = encode_axis(torch.arange(cells), 64)[axis_places(cells, "absolute")]
    torch.testing.assert_close(encoded(cells), absolute)
    larger = encoded(5 * cells)[2::5]  # the middle one of each five
    torch.testing.assert_close(larger, absolute, rtol=0, atol=1.01 / stride)
    places = axis_places(1000, "relative")
    assert (places.diff() >= 0).all()
    assert 0 <= places[0] <= places[-1] < FRAME
