"""Songs of any length in any batch: windows, rows, and one projection of prompts per run."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mge_plugin.inference.denoiser import Batch, Denoiser, denoise
from mge_plugin.inference.request import _LONG_FORMS, Sampling
from mge_plugin.inference.sampling import UNBATCHED, ItemNoise, linear_schedule, sampler_names
from mge_plugin.inference.windows import WindowRows, Windows
from mge_plugin.models.dit import DiTConfig
from mge_plugin.models.given import Given
from mge_plugin.models.guidance import Guidance
from mge_plugin.models.mge import MGEDiffusion
from mge_plugin.models.noise import OBJECTIVES, per_track
from mge_plugin.tracks import NUM_TRACKS, Track
from tests.denoise import denoise_tracks

CHANNELS, SIZE = 4, 8
CONFIG = DiTConfig(io_channels=12, embed_dim=96, depth=2, num_heads=3, global_cond_dim=8)


class Oracle(nn.Module):
    """Knows the `latents` (b, k, c, n) of every song: finds a window by its given track."""

    def __init__(self, latents, objective):
        super().__init__()
        self.latents, self.objective = latents, objective
        self.rows = []

    def predict(self, x, t, modulations, negative, given, guidance, sigma):
        self.rows.append(len(x))
        truth = torch.stack([self._find(g) for g in given.latents[:, Track.MIXTURE]])
        prediction = self.objective.towards(truth, given.insert(x, t), per_track(t))
        return (given.predict(x, prediction, t, self.objective),) * 2

    def _find(self, known):
        for song in self.latents:
            for start in range(song.shape[-1] - SIZE + 1):
                if torch.equal(song[Track.MIXTURE, :, start : start + SIZE], known):
                    return song[..., start : start + SIZE]
        raise AssertionError("not a window of any song")


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = MGEDiffusion(CONFIG).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(std=0.1)
    return network


def noise_of(seeds, frames):
    return ItemNoise(seeds, (NUM_TRACKS, CHANNELS, frames), "cpu")


def every(windows, items=1):
    return [(i, w) for i in range(items) for w in range(len(windows.starts))]


def batch(network, windows, seeds=(1,), chosen=None, given=None, rows=None):
    """Songs with prompts drawn by their place, or by `rows`."""
    items = len(seeds)
    embeddings = torch.randn(8, NUM_TRACKS, 8, generator=torch.Generator().manual_seed(5))
    modulations = network.modulate(embeddings[list(rows or range(items))])
    chosen = every(windows, items) if chosen is None else chosen
    return Batch(noise_of(seeds, windows.padded_length), modulations, windows, chosen, given)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 14, 15, 40])
def test_rows_joined_are_the_song(length):
    windows = Windows.cover(length, SIZE)
    rows = WindowRows(windows, every(windows, 3), 3, "cpu")
    x = torch.randn(3, NUM_TRACKS, CHANNELS, windows.padded_length)
    assert rows.cut(x).shape == (3 * len(windows.starts), NUM_TRACKS, CHANNELS, SIZE)
    assert_close(rows.join(rows.cut(x)), x)


def test_where_no_window_is_chosen_there_are_zeros():
    windows = Windows.cover(20, SIZE)  # starts at 0, 6 and 12
    rows = WindowRows(windows, [(0, 0), (1, 2)], 2, "cpu")
    joined = rows.join(torch.ones(2, NUM_TRACKS, CHANNELS, SIZE))
    assert joined[0, ..., :8].eq(1).all() and not joined[0, ..., 8:].any()
    assert joined[1, ..., 12:].eq(1).all() and not joined[1, ..., :12].any()


@pytest.mark.parametrize("form", _LONG_FORMS)
@pytest.mark.parametrize("frames", [1, 5, 8, 9, 30])
@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver++", "heun", "euler", "k-heun"])
def test_an_oracle_of_windows_makes_whole_songs(form, frames, sampler):
    objective = OBJECTIVES["rectified_flow" if sampler == "euler" else "v"]
    windows = Windows.cover(frames, SIZE)
    latents = torch.randn(2, NUM_TRACKS, CHANNELS, windows.padded_length)
    oracle = Oracle(latents, objective)
    noise, given = noise_of([1, 2], windows.padded_length), Given.track(0, latents[:, 0])
    songs = Batch(noise, torch.zeros(1, 2, 6), windows, every(windows, 2), given)
    sampling = Sampling(6, sampler=sampler, long_form=form, window_batch=3)
    assert_close(denoise(oracle, songs, sampling), latents, atol=2e-4, rtol=0)
    assert max(oracle.rows) <= 3


@pytest.mark.parametrize("form", _LONG_FORMS)
def test_the_result_does_not_depend_on_the_batch_of_windows(network, form):
    songs = batch(network, Windows.cover(30, SIZE))
    found = [
        denoise(network, songs, Sampling.paper(steps=5, long_form=form, window_batch=size))
        for size in (1, 2, 50)
    ]
    assert_close(found[1], found[0], atol=1e-5, rtol=1e-5)
    assert_close(found[2], found[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", _LONG_FORMS)
def test_a_song_in_a_batch_with_a_longer_one_is_the_song_alone(network, form):
    short, long = Windows.cover(14, SIZE), Windows.cover(40, SIZE)
    sampling = Sampling.paper(steps=5, long_form=form)
    chosen = [*every(long), *((1, w) for w in range(len(short.starts)))]
    both = denoise(network, batch(network, long, (1, 2), chosen), sampling)
    alone = denoise(network, batch(network, short, (2,), rows=(1,)), sampling)
    assert_close(both[1, ..., : short.padded_length], alone[0], atol=1e-5, rtol=1e-5)


def test_a_permuted_batch_gives_the_permuted_songs(network):
    windows, order = Windows.cover(20, SIZE), [2, 0, 1]
    songs = batch(network, windows, (1, 2, 3))
    permuted = batch(network, windows, (3, 1, 2), rows=order)
    found, other = (denoise(network, b, Sampling(5)) for b in (songs, permuted))
    assert_close(other, found[order], atol=1e-5, rtol=1e-5)


def test_windows_agree_at_every_step(network):
    """There is one prediction for each frame: the mean of the windows over it."""
    windows = Windows.cover(14, SIZE)
    (first, second), steps = windows.starts, []
    songs = batch(network, windows)
    denoise(network, songs, Sampling.paper(steps=4), steps.append)
    x = songs.noise.first()
    denoised = next(step["denoised"] for step in steps if step["advance"])
    network_alone = Denoiser(network, songs.modulations, guidance=Guidance(2.0))
    alone = [
        network.objective.denoised(
            x[..., s : s + SIZE],
            network_alone(x[..., s : s + SIZE], torch.ones(1, 3)),
            torch.ones(1, 3, 1, 1),
        )
        for s in (first, second)
    ]
    assert_close(denoised[..., :second], alone[0][..., :second], atol=1e-5, rtol=1e-5)
    mean = 0.75 * alone[0][..., second] + 0.25 * alone[1][..., 0]
    assert_close(denoised[..., second], mean, atol=1e-5, rtol=1e-5)


def test_one_after_another_the_frames_in_common_are_those_of_the_window_before(network):
    windows, sampling = Windows.cover(30, SIZE), Sampling.paper(steps=6, long_form="sequential")
    whole = denoise(network, batch(network, windows), sampling)
    first = denoise(network, batch(network, windows, chosen=[(0, 0)]), sampling)
    assert_close(whole[..., :SIZE], first[..., :SIZE], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sampler", sampler_names("v"))
def test_every_sampler_keeps_a_given_track_of_a_long_song(network, sampler):
    windows = Windows.cover(14, SIZE)
    latents = torch.randn(2, CHANNELS, windows.padded_length)
    given = Given.track(Track.SUBMIXTURE, latents)
    songs, sampling = batch(network, windows, (1, 2), given=given), Sampling(6, sampler=sampler)
    found = denoise(network, songs, sampling)
    assert_close(found[:, Track.SUBMIXTURE], latents, atol=1e-5, rtol=0)
    assert found.isfinite().all()
    assert torch.equal(found, denoise(network, songs, sampling)), "the same seeds, the same song"


@pytest.mark.parametrize("sampler", UNBATCHED[:4])
def test_samplers_that_draw_for_a_whole_batch_are_not_given_one(network, sampler):
    """Two items drawn together are not what each is alone: the pipeline runs them one by one."""
    windows, sampling = Windows.cover(8, SIZE), Sampling(6, sampler=sampler)
    both = denoise(network, batch(network, windows, (1, 2)), sampling)
    alone = denoise(network, batch(network, windows, (2,), rows=(1,)), sampling)
    assert (both[1] - alone[0]).abs().max() > 1e-5


def test_a_samplers_own_draws_leave_torchs_generator_alone(network):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    sampling = Sampling(4, sampler="dpmpp-3m-sde")
    denoise(network, batch(network, Windows.cover(8, SIZE)), sampling)
    assert torch.equal(torch.rand(3), expected)


def test_guidance_costs_twice_the_rows_inside_its_interval_and_nothing_outside(network):
    """One batch of two where guidance acts; elsewhere the negative branch is not computed."""
    rows = []
    network.model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    sampling = Sampling.paper(steps=4, cfg_scale=3.0, cfg_interval=(0.0, 0.8))
    denoise(network, batch(network, Windows.cover(20, SIZE)), sampling)
    assert rows == [3, 3, 6, 6]  # sigma 1.0, 0.88, 0.52 and 0.03


def test_nothing_chosen_is_zeros_without_a_call(network):
    network.model.register_forward_pre_hook(lambda *_: pytest.fail("called"))
    windows = Windows.cover(20, SIZE)
    found = denoise(network, batch(network, windows, chosen=[]), Sampling(4))
    assert found.shape == (1, NUM_TRACKS, CHANNELS, windows.padded_length) and not found.any()


@pytest.fixture
def projections(network):
    """The number of a block whenever its scales, shifts and gates are computed."""
    calls = []
    for i, block in enumerate(network.model.transformer.layers):
        block.to_modulations.register_forward_hook(lambda *_, i=i: calls.append(i))
    return calls


@pytest.mark.parametrize("track", [None, Track.MIXTURE])
@pytest.mark.parametrize("cfg_scale", [1.0, 2.0])
def test_modulations_are_computed_once_a_run(network, projections, track, cfg_scale):
    """Once a block, and not at all for guidance's null branch, whose modulations are zeros."""
    noise, embeddings = torch.randn(2, 3, 4, 10), torch.randn(2, 3, 8)
    given = None if track is None else Given.track(track, torch.randn(2, 4, 10))
    denoise_tracks(network, noise, embeddings, given, linear_schedule(9), cfg_scale)
    assert sorted(projections) == [0, 1]


def test_a_negative_prompt_is_projected_once_too(network, projections):
    noise, (embeddings, negative) = torch.randn(2, 3, 4, 10), torch.randn(2, 2, 3, 8)
    run = (network, noise, embeddings, None, linear_schedule(9), 2.0)
    away = denoise_tracks(*run, negative=negative)
    assert sorted(projections) == [0, 0, 1, 1]
    assert (away - denoise_tracks(*run)).abs().max() > 1e-3
    assert_close(denoise_tracks(*run, negative=torch.zeros(2, 3, 8)), denoise_tracks(*run))


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
    ("length", "size", "overlap"),
    [(0, 4, 1), (4, 0, 0), (4, 4, -1), (4, 4, 3), (4, 4, 4), (4, 1, 1)],
)
def test_windows_that_cannot_be_are_refused(length, size, overlap):
    with pytest.raises(ValueError):
        Windows(length, size, overlap)
