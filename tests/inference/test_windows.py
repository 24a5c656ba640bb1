import pytest
import torch
from torch.testing import assert_close

from mge_plugin.inference.windows import Windows

LENGTHS_AND_SIZES = [
    (length, size)
    for size in (1, 2, 3, 5, 8, 16, 17)
    for length in (1, 2, size - 1, size, size + 1, 2 * size, 3 * size + 1, 5 * size - 1)
    if length > 0
]


@pytest.mark.parametrize("scale", [1, 7])
@pytest.mark.parametrize(("length", "size"), LENGTHS_AND_SIZES)
def test_cut_and_join_give_the_signal_back(length, size, scale):
    windows = Windows.cover(length, size)
    signal = torch.randn(2, 3, windows.padded_length * scale)
    pieces = windows.cut(signal, scale)
    assert pieces.shape == (len(windows.starts), 2, 3, size * scale)
    assert_close(windows.join(pieces, scale), signal[..., : length * scale])


@pytest.mark.parametrize(("length", "size"), LENGTHS_AND_SIZES)
def test_windows_reach_the_end_and_each_has_a_frame_of_its_own(length, size):
    windows = Windows.cover(length, size)
    assert windows.overlap < size
    assert windows.padded_length >= length
    assert windows.padded_length - size < length or length <= size
    assert all(start + windows.overlap < length for start in windows.starts[1:])
    if length <= size:
        assert windows.starts == [0]


@pytest.mark.parametrize(("overlap", "size"), [(0, 4), (1, 4), (2, 4), (3, 7), (8, 16)])
def test_the_fades_of_every_seam_sum_to_1(overlap, size):
    windows = Windows(4 * size + 1, size, overlap)
    assert len(windows.starts) > 3
    assert_close(windows.join(torch.ones(len(windows.starts), size)), torch.ones(4 * size + 1))


def test_windows_share_a_quarter_with_the_next():
    assert Windows.cover(20, 8).starts == [0, 6, 12]
    assert Windows.cover(20, 7).overlap == 1


def test_a_seam_goes_from_one_window_to_the_next_in_a_line():
    windows = Windows(length=7, size=5, overlap=2)
    assert windows.starts == [0, 3]
    joined = windows.join(torch.stack([torch.zeros(5), torch.ones(5)]))
    assert_close(joined, torch.tensor([0, 0, 0, 0.25, 0.75, 1, 1]))


@pytest.mark.parametrize(
    ("length", "size", "overlap", "wrong"),
    [
        (0, 4, 1, "length and size must be 1 or more, found 0 and 4"),
        (4, 0, 0, "length and size must be 1 or more, found 4 and 0"),
        (4, 4, -1, "overlap must be from 0 to half of size 4, found -1"),
        (4, 4, 3, "overlap must be from 0 to half of size 4, found 3"),
        (4, 4, 4, "overlap must be from 0 to half of size 4, found 4"),
        (4, 1, 1, "overlap must be from 0 to half of size 1, found 1"),
    ],
)
def test_windows_that_cannot_be_are_refused(length, size, overlap, wrong):
    with pytest.raises(ValueError, match=wrong):
        Windows(length, size, overlap)
