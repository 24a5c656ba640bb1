"""The log-mel autoencoder: what comes back, what silence is, what pieces are, what is refused."""

import math

import pytest
import torch

from mge_plugin import registry
from mge_plugin.config import ConfigError
from mge_plugin.models.autoencoder import autoencoder_problems
from mge_plugin.standins.mel_autoencoder import MelConfig, MelDecoder, MelEncoder, _MelSpectrogram

RATE = 16000
WHOLE = {"n_mels": 96, "frames": 8, "latent_dim": 96 * 8}  # nothing is left out


def tone(hertz, seconds=1.024, level=0.3):
    t = torch.arange(round(seconds * RATE)) / RATE
    return level * torch.sin(2 * math.pi * hertz * t)[None]


@pytest.fixture
def spectrogram():
    return _MelSpectrogram(MelConfig())


def test_a_signal_comes_back_from_its_stft(spectrogram):
    signal = torch.randn(2, 4096, generator=torch.Generator().manual_seed(0))
    spectrum = spectrogram.stft(signal)
    assert spectrum.shape == (2, 513, 4096 // 128)
    torch.testing.assert_close(spectrogram.istft(spectrum)[:, 512:-512], signal[:, 512:-512])


def test_magnitudes_have_the_mel_bands_asked_for(spectrogram):
    log_mel = spectrogram.log_mel(tone(440.0))
    powers = spectrogram.magnitudes(log_mel).square()
    again = (spectrogram.bands @ powers + spectrogram.config.floor).log()
    assert (again - log_mel).abs().mean() < 0.1


@pytest.mark.parametrize("hertz", [110.0, 440.0, 3000.0])
def test_a_tone_keeps_its_pitch_and_its_level(hertz):
    config = MelConfig(**WHOLE)
    encoder, decoder = MelEncoder(config), MelDecoder(config)
    signal = tone(hertz)
    heard = decoder(encoder(signal[None]))[0]
    assert heard.shape == signal.shape
    spectrum = torch.fft.rfft(heard[0]).abs()
    assert spectrum.argmax().item() * RATE / len(heard[0]) == pytest.approx(hertz, abs=8)
    assert heard.std().item() == pytest.approx(signal.std().item(), rel=0.1)


def test_silence_comes_back_silent_and_other_silence_the_same():
    config = MelConfig(**WHOLE)
    encoder, decoder = MelEncoder(config), MelDecoder(config)
    latents = encoder(torch.zeros(1, 1, 8192))
    assert torch.equal(latents, latents[..., :1].expand_as(latents))
    assert decoder(latents).abs().max() < 1e-5  # -100 dBFS


def test_decoding_twice_gives_the_same_and_a_batch_no_other(spectrogram):
    config = MelConfig()
    decoder = MelDecoder(config)
    latents = torch.randn(3, config.latent_dim, 6, generator=torch.Generator().manual_seed(1))
    whole = decoder(latents)
    torch.testing.assert_close(whole, decoder(latents))
    torch.testing.assert_close(whole[1:2], decoder(latents[1:2]), atol=1e-5, rtol=1e-3)


def test_stereo_is_coded_by_channel():
    config = MelConfig(io_channels=2, latent_dim=2 * 96 * 8)
    encoder, decoder = MelEncoder(config), MelDecoder(config)
    both = torch.cat([tone(220.0), torch.zeros(1, 16384)])
    heard = decoder(encoder(both[None]))[0]
    assert heard.shape == (2, 16384)
    assert heard[1].abs().max() < 1e-5 < heard[0].abs().max()


def test_gradients_reach_both_matrices():
    config = MelConfig(iterations=2, inversions=2)
    encoder, decoder = MelEncoder(config), MelDecoder(config)
    decoder(encoder(tone(440.0)[None])).square().sum().backward()
    for matrix in (encoder.analysis, decoder.synthesis):
        assert matrix.grad.isfinite().all()
        assert matrix.grad.abs().sum() > 0


def test_a_halved_model_still_computes_in_float32():
    encoder = MelEncoder(MelConfig()).half()
    assert encoder.analysis.dtype == torch.float32
    assert encoder(tone(440.0)[None].half()).dtype == torch.float16


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"frames": 0}, "frames must be 1 or more, found 0"),
        ({"n_fft": 255}, "n_fft must be even and 4 hops or more, found 255"),
        ({"floor": 0.0}, "floor must be above 0, found 0.0"),
        ({"latent_dim": 1000}, "latent_dim must be 768 features or fewer, found 1000"),
        ({"iterations": -1}, "iterations must be 0 or more, found -1"),
    ],
)
def test_options_that_cannot_be(options, said):
    with pytest.raises(ConfigError) as caught:
        MelConfig(**options)
    assert said in caught.value.problems


def autoencoder_config(**coder):
    section = {"type": "mge_mel", "config": coder}
    return {
        "model_type": "autoencoder",
        "sample_size": 16384,
        "sample_rate": RATE,
        "audio_channels": 1,
        "model": {
            "encoder": section,
            "decoder": section,
            "latent_dim": 64,
            "downsampling_ratio": 1024,
            "io_channels": 1,
        },
    }


def test_sats_factory_makes_it_and_no_other_coder_is_touched():
    registry.install()
    from stable_audio_tools.models import create_model_from_config
    from stable_audio_tools.models.autoencoders import create_encoder_from_config

    model = create_model_from_config(autoencoder_config())
    assert isinstance(model.encoder, MelEncoder)
    assert isinstance(model.decoder, MelDecoder)
    assert model.encode(torch.zeros(1, 1, 4096)).shape == (1, 64, 4)
    with pytest.raises(ConfigError, match=r"encoder\.config: unknown key 'hop'.*hop_length"):
        create_model_from_config(autoencoder_config(hop=3))
    with pytest.raises(ValueError, match="Unknown encoder type unheard_of"):
        create_encoder_from_config({"type": "unheard_of", "config": {}})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("downsampling_ratio", 512, "hop_length 128 x 8 frames make 1024"),
        ("latent_dim", 32, "model.encoder.config.latent_dim is 64, but model.latent_dim is 32"),
        ("io_channels", 2, "model.encoder.config.io_channels is 1, but model.io_channels is 2"),
    ],
)
def test_sizes_that_contradict_each_other_are_told(key, value, said):
    config = autoencoder_config()
    config["model"][key] = value
    config["sample_size"] = 16384
    assert any(said in problem for problem in autoencoder_problems(config, "model"))
    assert not autoencoder_problems(autoencoder_config(), "model")


def test_a_decoder_unlike_its_encoder_is_told():
    config = autoencoder_config()
    config["model"]["decoder"] = {"type": "mge_mel", "config": {"n_mels": 80}}
    assert autoencoder_problems(config, "model") == [
        "model.encoder.config and model.decoder.config differ in n_mels: 96 and 80"
    ]
