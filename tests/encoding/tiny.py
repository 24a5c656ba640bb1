"""The sizes and configs of a tiny autoencoder, and of a three-track model around it."""

RATE, RATIO, CHANNELS = 4000, 32, 4


def vae_section(bottleneck="vae"):
    width = 2 * CHANNELS if bottleneck == "vae" else CHANNELS
    blocks = {"channels": 8, "c_mults": [1, 2], "strides": [2, 4], "use_snake": True}
    return {
        "encoder": {
            "type": "oobleck",
            "config": blocks | {"in_channels": 4, "latent_dim": width},
        },
        "decoder": {
            "type": "oobleck",
            "config": blocks | {"out_channels": 4, "latent_dim": CHANNELS},
        },
        "bottleneck": {"type": bottleneck},
        "pretransform": {"type": "patched", "config": {"channels": 1, "patch_size": 4}},
        "in_channels": 4,
        "out_channels": 4,
        "latent_dim": CHANNELS,
        "downsampling_ratio": RATIO,
        "io_channels": 1,
    }


def vae_config(bottleneck="vae"):
    return {
        "model_type": "autoencoder",
        "sample_rate": RATE,
        "sample_size": 1024,
        "audio_channels": 1,
        "model": vae_section(bottleneck),
    }


def model_config():
    """A whole three-track model around the same autoencoder."""
    return {
        "model_type": "diffusion_cond_inpaint",
        "sample_rate": RATE,
        "sample_size": 1024,
        "audio_channels": 1,
        "model": {
            "pretransform": {"type": "autoencoder", "scale": 0.5, "config": vae_section()},
            "conditioning": {
                "configs": [{"id": "prompt", "type": "mge_hashed_words", "config": {}}],
                "cond_dim": 16,
            },
            "diffusion": {
                "type": "mge_dit",
                "config": {
                    "io_channels": 3 * CHANNELS,
                    "embed_dim": 96,
                    "depth": 1,
                    "num_heads": 3,
                    "global_cond_dim": 16,
                },
            },
            "io_channels": 3 * CHANNELS,
        },
        "training": {"pre_encoded": True, "learning_rate": 1e-3, "use_ema": False},
    }
