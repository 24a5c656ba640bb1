"""The three-track model in stable-audio-tools' form, and its construction from a model config."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from stable_audio_tools.models.diffusion import (
    ConditionedDiffusionModel,
    ConditionedDiffusionModelWrapper,
)
from stable_audio_tools.models.factory import create_pretransform_from_config
from torch import Tensor

from mge_plugin import registry
from mge_plugin.config import ConfigError, parse_section
from mge_plugin.models.conditioning import create_conditioner
from mge_plugin.models.dit import DiTConfig, MGEDiT
from mge_plugin.models.given import Given
from mge_plugin.models.guidance import NO_GUIDANCE, Guidance
from mge_plugin.models.noise import OBJECTIVES, Objective, V, per_track
from mge_plugin.tracks import NUM_TRACKS, pack, unpack

GIVEN = "given"  # the conditioning key of a Given

# SAT's samplers pass these to any network: they choose between ways to compute guidance of which
# this network has one.
_INERT_OPTIONS = frozenset({"batch_cfg", "rescale_cfg"})


class MGEDiffusion(ConditionedDiffusionModel):
    """The network call that samplers make: given tracks and guidance around `MGEDiT`."""

    def __init__(self, config: DiTConfig, objective: Objective = V) -> None:
        super().__init__(supports_global_cond=True)
        self.model = MGEDiT(config)
        self.objective = objective

    def modulate(self, global_cond: Tensor) -> Tensor:
        """See `MGEDiT.modulate`."""
        return self.model.modulate(global_cond)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        global_cond: Tensor | None = None,
        given: Given | None = None,
        modulations: Tensor | None = None,
        negative_modulations: Tensor | None = None,
        cfg_scale: float | tuple[float, ...] = 1.0,
        cfg_interval: tuple[float, float] = (0, 1),
        scale_phi: float = 0.0,
        apg_scale: float = 0.0,
        return_info: bool = False,
        **sat_options: Any,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """The call that SAT's samplers make: `predict` with tracks packed, (b, k*c, n), `t` (b,).

        The conditioning is `global_cond` (b, k, d) or, projected once per sampling run, its
        `modulations`. `scale_phi` is SAT's name of `cfg_rescale`. With `return_info` SAT's CFG++
        sampler gets the negative prediction too.
        """
        _reject_unsupported(sat_options)
        t = t[:, None].expand(-1, NUM_TRACKS) if t.ndim == 1 else t
        if modulations is None:
            modulations = self.modulate(global_cond)
        guidance = Guidance(cfg_scale, tuple(cfg_interval), scale_phi, apg_scale)
        prediction, away = self.predict(
            unpack(x), t, modulations, negative_modulations, given, guidance
        )
        return (
            (pack(prediction), {"uncond_output": pack(away)}) if return_info else pack(prediction)
        )

    def predict(
        self,
        x: Tensor,
        t: Tensor,
        modulations: Tensor,
        negative: Tensor | None = None,
        given: Given | None = None,
        guidance: Guidance = NO_GUIDANCE,
        sigma: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The guided and the negative prediction (b, k, c, n) at `x` (b, k, c, n), `t` (b, k).

        Without `negative` modulations guidance moves away from no prompt, whose modulations are
        zeros. `sigma` is the noise share of `t` on the CPU, if the caller has it: then a guidance
        interval does not wait for the GPU. Without guidance both predictions are the same.
        """
        modulations = modulations.to(self.model.preprocess_conv.weight)  # SAT casts what it passes
        levels, clamped = t, x
        if given is not None:
            levels, clamped = given.levels(t), given.insert(x, t, self.objective)
        if guidance.acts(self.objective.alpha_sigma(t)[1] if sigma is None else sigma):
            null = torch.zeros_like(modulations) if negative is None else negative.to(modulations)
            both = self.model(
                pack(torch.cat([clamped, clamped])),
                torch.cat([levels, levels]),
                torch.cat([modulations, null], dim=1),
            )
            prompted, away = unpack(both).chunk(2)
            denoised = None
            if guidance.apg_scale:
                denoised = self.objective.denoised(clamped, prompted, per_track(levels))
            prediction = guidance.apply(prompted, away, denoised)
        else:
            prediction = away = unpack(self.model(pack(clamped), levels, modulations))
        if given is None:
            return prediction, away
        return (
            given.predict(x, prediction, t, self.objective),
            given.predict(x, away, t, self.objective),
        )


class MGEModel(ConditionedDiffusionModelWrapper):
    """Autoencoder, conditioner and network together; SAT's scripts and UI know it as their own."""

    def embeddings(self, conditioning_tensors: Mapping[str, Any]) -> Tensor:
        """Embeddings (b, k, d), the sum of those of the conditioners in `global_cond_ids`."""
        return sum(conditioning_tensors[key][0] for key in self.global_cond_ids)

    def get_conditioning_inputs(
        self, conditioning_tensors: Mapping[str, Any], negative: bool = False
    ) -> dict[str, Any]:
        """Arguments of the network's call: modulations and given tracks.

        SAT calls this once per sampling run.
        """
        modulations = self.model.modulate(self.embeddings(conditioning_tensors))
        if negative:
            return {"negative_modulations": modulations}
        return {"modulations": modulations, "given": conditioning_tensors.get(GIVEN)}


@dataclass(frozen=True)
class DiffusionConfig:
    """`model.diffusion`."""

    type: Literal["mge_dit"]
    config: DiTConfig
    global_cond_ids: tuple[str, ...] = ("prompt",)  # conditioners whose embeddings the network gets
    diffusion_objective: Literal["v", "rectified_flow"] = "v"  # what is predicted; paper: v


@dataclass(frozen=True)
class ModelConfig:
    """`model`; the pretransform and conditioning sections are read by their own factories."""

    io_channels: int
    diffusion: DiffusionConfig
    pretransform: dict = field(default_factory=dict)
    conditioning: dict = field(default_factory=dict)


def create_mge_model(model_config: Mapping[str, Any]) -> MGEModel:
    """Build the model from a SAT model config whose `model.diffusion.type` is `mge_dit`."""
    config = parse_section(ModelConfig, model_config["model"], "model")
    _check_channels(config)
    registry.install()  # the autoencoder may be ours
    pretransform = None
    if config.pretransform:
        pretransform = create_pretransform_from_config(
            config.pretransform, model_config["sample_rate"]
        )
        _check_latents(config, pretransform.encoded_channels)
    return MGEModel(
        MGEDiffusion(config.diffusion.config, OBJECTIVES[config.diffusion.diffusion_objective]),
        create_conditioner(config.conditioning),
        io_channels=config.io_channels,
        sample_rate=model_config["sample_rate"],
        min_input_length=pretransform.downsampling_ratio if pretransform else 1,
        diffusion_objective=config.diffusion.diffusion_objective,
        pretransform=pretransform,
        global_cond_ids=list(config.diffusion.global_cond_ids),
    )


def _check_channels(config: ModelConfig) -> None:
    """Raise ConfigError unless the sizes that two sections name are equal."""
    network, width = config.diffusion.config, config.conditioning.get("cond_dim")
    if network.io_channels != config.io_channels:
        raise ConfigError(
            f"model.diffusion.config.io_channels is {network.io_channels}, "
            f"but model.io_channels is {config.io_channels}: they must be equal"
        )
    if width != network.global_cond_dim:
        raise ConfigError(
            f"model.conditioning.cond_dim is {width}, but "
            f"model.diffusion.config.global_cond_dim is {network.global_cond_dim}: "
            "they must be equal"
        )
    ids = {entry.get("id") for entry in config.conditioning.get("configs", [])}
    if unknown := set(config.diffusion.global_cond_ids) - ids:
        raise ConfigError(
            f"model.diffusion.global_cond_ids names {sorted(unknown)}, "
            f"but model.conditioning.configs has {sorted(map(str, ids))}"
        )


def _check_latents(config: ModelConfig, latent_channels: int) -> None:
    if config.io_channels != NUM_TRACKS * latent_channels:
        raise ConfigError(
            f"model.io_channels is {config.io_channels}, but the pretransform has "
            f"{latent_channels} latent channels: expected {NUM_TRACKS} x {latent_channels} = "
            f"{NUM_TRACKS * latent_channels}"
        )


def _reject_unsupported(sat_options: Mapping[str, Any]) -> None:
    """SAT passes every kind of conditioning it knows, mostly None; refuse what would be ignored."""
    unsupported = [
        name
        for name, value in sat_options.items()
        if value is not None and name not in _INERT_OPTIONS
    ]
    if unsupported:
        raise TypeError(f"the mge_dit network does not support {', '.join(sorted(unsupported))}")
