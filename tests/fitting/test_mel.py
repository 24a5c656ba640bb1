"""Principal components: the best linear reconstruction, the scale, what is refused."""

import pytest
import torch

from mge_plugin.config import ConfigError
from mge_plugin.standins.fit import _create_mel_autoencoder, _fit_mel

CODER = {"type": "mge_mel", "config": {"n_mels": 16, "frames": 8, "latent_dim": 12}}


def config_of(encoder=CODER):
    return {
        "model_type": "autoencoder",
        "sample_size": 16384,
        "sample_rate": 16000,
        "audio_channels": 1,
        "model": {
            "encoder": encoder,
            "decoder": CODER,
            "latent_dim": 12,
            "downsampling_ratio": 1024,
            "io_channels": 1,
        },
    }


@pytest.fixture
def batches():
    draw = torch.Generator().manual_seed(0)
    level = torch.rand(6, 4, 1, 16, generator=draw).repeat_interleave(1024, dim=-1)
    return list(level * torch.randn(6, 4, 1, 16384, generator=draw))


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_it_keeps_what_the_largest_components_hold(batches, whitening):
    model = _create_mel_autoencoder(config_of())
    fit = _fit_mel(model, batches, whitening)
    features = model.encoder.features(torch.cat(batches)).flatten(0, 1)
    latents = (features - model.encoder.mean) @ model.encoder.analysis.T
    again = latents @ model.decoder.synthesis.T + model.decoder.mean
    centred = features - features.mean(0)
    best = torch.linalg.svdvals(centred)[12:].square().sum()
    torch.testing.assert_close((again - features).square().sum(), best, rtol=1e-3, atol=0.0)
    assert fit.frames == 6 * 4 * 16
    torch.testing.assert_close(torch.tensor(1 - fit.kept), best / centred.square().sum())


def test_latents_have_a_deviation_of_one_and_whitened_each_of_them(batches):
    model = _create_mel_autoencoder(config_of())
    for whitening in (0.0, 1.0):
        _fit_mel(model, batches, whitening)
        latents = model.encoder(torch.cat(batches)).transpose(0, 1).flatten(1)
        assert latents.square().mean().sqrt().item() == pytest.approx(1, abs=0.01)
        deviations = latents.std(dim=1)
        if whitening:
            torch.testing.assert_close(deviations, torch.ones(12), atol=0.02, rtol=0.0)
        else:
            assert deviations[0] > 3 * deviations[-1]


def test_what_cannot_be_fitted(batches):
    model = _create_mel_autoencoder(config_of())
    with pytest.raises(ConfigError, match=r"whitening: expected 0 to 1, found 1\.5"):
        _fit_mel(model, batches, 1.5)
    with pytest.raises(ConfigError, match="8 latent frames are too few to fit 12 channels"):
        _fit_mel(model, [torch.randn(1, 1, 8 * 1024)], 0.5)
    oobleck = {
        "type": "oobleck",
        "config": {"channels": 4, "c_mults": [1], "strides": [1024], "latent_dim": 12},
    }
    with pytest.raises(ConfigError, match="type mge_mel, found OobleckEncoder and MelDecoder"):
        _create_mel_autoencoder(config_of(oobleck))
