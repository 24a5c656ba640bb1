"""Songs of any length: windows together or one after another, in any batch."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mge_plugin.inference.denoiser import Conditions, denoise_songs, outpaint_songs
from mge_plugin.inference.sampling import ItemNoise, Method, sampler_names
from mge_plugin.inference.windows import WindowRows, Windows
from mge_plugin.models.dit import DiTConfig
from mge_plugin.models.given import Given
from mge_plugin.models.guidance import Guidance
from mge_plugin.models.mge import MGEDiffusion
from mge_plugin.models.noise import OBJECTIVES, per_track
from mge_plugin.tracks import NUM_TRACKS, Track, pack, unpack

CHANNELS, SIZE = 4, 8
CONFIG = DiTConfig(io_channels=12, embed_dim=96, depth=2, num_heads=3, global_cond_dim=8)
SONGS = {"joint": denoise_songs, "sequential": outpaint_songs}


class Oracle(nn.Module):
    """Knows `latents` (b, k, c, n) of every song: finds where a window lies by its given track."""

    def __init__(self, latents, objective):
        super().__init__()
        self.latents, self.objective = latents, objective
        self.rows = []

    def forward(self, x, t, given=None, **options):
        x = unpack(x)
        self.rows.append(len(x))
        truth = torch.stack([self._find(g) for g in given.latents[:, Track.MIXTURE]])
        prediction = self.objective.towards(truth, given.insert(x, t), per_track(t))
        return pack(given.predict(x, prediction, t, self.objective))

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


def conditions(network, items=1, given=None, guidance=None, seed=5):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(items, NUM_TRACKS, 8, generator=generator)
    return Conditions(network.modulate(embeddings), given, None, guidance or Guidance(2.0))


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


@pytest.mark.parametrize("form", sorted(SONGS))
@pytest.mark.parametrize("frames", [1, 5, 8, 9, 30])
@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver++", "heun", "euler", "k-heun"])
def test_an_oracle_of_windows_makes_whole_songs(form, frames, sampler):
    objective = OBJECTIVES["rectified_flow" if sampler == "euler" else "v"]
    windows = Windows.cover(frames, SIZE)
    latents = torch.randn(2, NUM_TRACKS, CHANNELS, windows.padded_length)
    oracle = Oracle(latents, objective)
    asked = Conditions(torch.zeros(1, 2, 6), Given.track(Track.MIXTURE, latents[:, 0]))
    found = SONGS[form](
        oracle,
        noise_of([1, 2], windows.padded_length),
        asked,
        Method(sampler, 6),
        windows,
        every(windows, 2),
        3,
    )
    assert_close(found, latents, atol=2e-4, rtol=0)
    assert max(oracle.rows) <= 3


@pytest.mark.parametrize("form", sorted(SONGS))
def test_the_result_does_not_depend_on_the_batch_of_windows(network, form):
    windows = Windows.cover(30, SIZE)
    noise, asked = noise_of([1], windows.padded_length), conditions(network)
    made = [
        SONGS[form](network, noise, asked, Method("ddim", 5), windows, every(windows), batch)
        for batch in (1, 2, 50)
    ]
    assert_close(made[1], made[0], atol=1e-5, rtol=1e-5)
    assert_close(made[2], made[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", sorted(SONGS))
def test_a_song_in_a_batch_with_a_longer_one_is_the_song_alone(network, form):
    short, long = Windows.cover(14, SIZE), Windows.cover(40, SIZE)
    both = conditions(network, items=2)
    alone = Conditions(both.modulations[:, 1:], guidance=both.guidance)
    chosen = [*every(long), *((1, w) for w in range(len(short.starts)))]
    noise = noise_of([1, 2], long.padded_length)
    made = SONGS[form](network, noise, both, Method("ddim", 5), long, chosen, 4)[1]
    expected = SONGS[form](
        network,
        noise_of([2], short.padded_length),
        alone,
        Method("ddim", 5),
        short,
        every(short),
        4,
    )[0]
    assert_close(made[..., : short.padded_length], expected, atol=1e-5, rtol=1e-5)


def test_a_permuted_batch_gives_the_permuted_songs(network):
    windows, order = Windows.cover(20, SIZE), [2, 0, 1]
    asked = conditions(network, items=3)
    permuted = Conditions(asked.modulations[:, order], guidance=asked.guidance)
    run = (Method("dpm-solver++", 5), windows, every(windows, 3), 4)
    made = denoise_songs(network, noise_of([1, 2, 3], windows.padded_length), asked, *run)
    other = denoise_songs(network, noise_of([3, 1, 2], windows.padded_length), permuted, *run)
    assert_close(other, made[order], atol=1e-5, rtol=1e-5)


def test_windows_agree_at_every_step(network):
    """Of any step's prediction there is one for each frame: the mean of the windows over it."""
    windows = Windows.cover(14, SIZE)
    (first, second), steps = windows.starts, []
    noise, asked = noise_of([1], windows.padded_length), conditions(network)
    denoise_songs(
        network, noise, asked, Method("ddim", 4), windows, every(windows), 2, steps.append
    )
    x = noise.first()
    options = asked.options(None)
    told = steps[0]["denoised"]
    alone = [
        network.objective.denoised(
            x[..., s : s + SIZE],
            unpack(network(pack(x[..., s : s + SIZE]), torch.ones(1, 3), **options)),
            torch.ones(1, 3, 1, 1),
        )
        for s in (first, second)
    ]
    assert_close(told[..., :second], alone[0][..., :second], atol=1e-5, rtol=1e-5)
    mean = 0.75 * alone[0][..., second] + 0.25 * alone[1][..., 0]
    assert_close(told[..., second], mean, atol=1e-5, rtol=1e-5)


def test_one_after_another_the_frames_in_common_are_the_window_befores(network):
    windows = Windows.cover(30, SIZE)
    noise, asked = noise_of([1], windows.padded_length), conditions(network)
    run = (Method("ddim", 6), windows)
    whole = outpaint_songs(network, noise, asked, *run, every(windows), 1)
    first = outpaint_songs(network, noise, asked, *run, [(0, 0)], 1)
    assert_close(whole[..., :SIZE], first[..., :SIZE], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sampler", sampler_names("v"))
def test_every_sampler_keeps_a_given_track_of_a_long_song(network, sampler):
    windows = Windows.cover(14, SIZE)
    known = torch.randn(2, CHANNELS, windows.padded_length)
    given = Given.track(Track.SUBMIXTURE, known)
    noise = noise_of([1, 2], windows.padded_length)
    asked = conditions(network, 2, given)
    made = denoise_songs(network, noise, asked, Method(sampler, 6), windows, every(windows, 2), 3)
    assert_close(made[:, Track.SUBMIXTURE], known, atol=1e-5, rtol=0)
    assert made.isfinite().all()
    again = denoise_songs(network, noise, asked, Method(sampler, 6), windows, every(windows, 2), 3)
    assert torch.equal(made, again), "the same seeds, the same song"


def test_a_samplers_own_draws_leave_torchs_generator_alone(network):
    windows = Windows.cover(8, SIZE)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    denoise_songs(
        network,
        noise_of([1], SIZE),
        conditions(network),
        Method("dpmpp-3m-sde", 4),
        windows,
        every(windows),
        1,
    )
    assert torch.equal(torch.rand(3), expected)


def test_guidance_costs_twice_the_rows_inside_its_interval_and_nothing_outside(network):
    """One batch of two where guidance acts; elsewhere the null branch is not computed."""
    rows = []
    network.model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    windows = Windows.cover(20, SIZE)
    guidance = Guidance(3.0, cfg_interval=(0.0, 0.8))
    denoise_songs(
        network,
        noise_of([1], windows.padded_length),
        conditions(network, guidance=guidance),
        Method("ddim", 4),  # sigma 1.0, 0.88, 0.52 and 0.03
        windows,
        every(windows),
        3,
    )
    assert rows == [3, 3, 6, 6]


def test_nothing_chosen_is_zeros_without_a_call(network):
    network.model.register_forward_pre_hook(lambda *_: pytest.fail("called"))
    windows = Windows.cover(20, SIZE)
    made = denoise_songs(
        network,
        noise_of([1], windows.padded_length),
        conditions(network),
        Method("ddim", 4),
        windows,
        [],
        3,
    )
    assert made.shape == (1, NUM_TRACKS, CHANNELS, windows.padded_length) and not made.any()
