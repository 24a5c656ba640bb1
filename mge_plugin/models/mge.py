"""The three-track model in stable-audio-tools' form, and its construction from a model config."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from stable_audio_tools.models.diffusion import (
    ConditionedDiffusionModel,
    ConditionedDiffusionModelWrapper,
)
from torch import Tensor, nn

from mge_plugin.config import ConfigError, at, found, parse_section, problems_of, whole
from mge_plugin.models.autoencoder import autoencoder_problems, create_pretransform
from mge_plugin.models.conditioning import create_conditioner
from mge_plugin.models.dit import DiTConfig, MGEDiT
from mge_plugin.models.given import Given
from mge_plugin.models.guidance import NO_GUIDANCE, Guidance
from mge_plugin.models.noise import OBJECTIVES, Objective, V, per_track
from mge_plugin.tracks import NUM_TRACKS, pack, unpack

_GIVEN = "given"  # the conditioning key of a Given

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
            if global_cond is None:
                raise TypeError("the mge_dit network needs global_cond or modulations")
            modulations = self.modulate(global_cond)
        lowest, highest = cfg_interval
        guidance = Guidance(cfg_scale, (lowest, highest), scale_phi, apg_scale)
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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._initial = None if self.pretransform is None else _first_weight(self.pretransform)

    def has_random_autoencoder(self) -> bool:
        """Whether the autoencoder still has the weights that it was created with."""
        weight = None if self.pretransform is None else _first_weight(self.pretransform)
        if weight is None or self._initial is None:
            return False
        return torch.equal(weight, self._initial)

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
        return {"modulations": modulations, "given": conditioning_tensors.get(_GIVEN)}


def _first_weight(module: nn.Module) -> Tensor | None:
    """A copy of a module's first parameter on the CPU; None if it has none or has no memory."""
    parameter = next(module.parameters(), None)
    if parameter is None or parameter.is_meta:
        return None
    return parameter.detach().float().cpu().clone()


@dataclass(frozen=True)
class DiffusionConfig:
    """`model.diffusion`."""

    type: Literal["mge_dit"]
    config: DiTConfig
    global_cond_ids: tuple[str, ...] = ("prompt",)  # ids of the conditioners of the network
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
    if problems := model_problems(model_config):
        raise ConfigError(*problems)
    config = parse_section(ModelConfig, model_config["model"], "model")
    pretransform = None
    if config.pretransform:
        pretransform = create_pretransform(config.pretransform, model_config["sample_rate"])
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


_AUTOENCODER = "model.pretransform.config"
_PROMPTED = "model.diffusion.global_cond_ids"


def model_problems(config: Mapping[str, Any]) -> list[str]:
    """What keeps a three-track model from being built, all at once; empty if nothing does.

    A rule looks at one thing in the JSON and passes over what another rule reports, so that no
    mistake hides another. A model may have no autoencoder: it is then trained on latents alone.
    """
    rules = (_types, _sections, _equal_sizes, _prompts)
    problems = [problem for rule in rules for problem in rule(config)]
    if at(config, "model.pretransform"):
        problems += autoencoder_problems(config, _AUTOENCODER)
    return problems


def _types(config: Mapping[str, Any]) -> Iterator[str]:
    expected = {"model_type": "diffusion_cond_inpaint"}
    if at(config, "model.pretransform"):
        expected["model.pretransform.type"] = "autoencoder"
    for path, name in expected.items():
        if at(config, path) != name:
            yield f"{path}: expected {name!r}, found {found(at(config, path))}"


def _sections(config: Mapping[str, Any]) -> list[str]:
    """Unknown and missing keys, wrong types, sizes that a section's own rules refuse."""
    problems = problems_of(parse_section, ModelConfig, at(config, "model"), "model")
    conditioning = at(config, "model.conditioning")
    if isinstance(conditioning, Mapping):
        with torch.device("meta"):  # draws nothing from the global generator
            problems += problems_of(create_conditioner, conditioning)
    return problems


def _equal_sizes(config: Mapping[str, Any]) -> Iterator[str]:
    """Sizes that two sections name."""
    network = "model.diffusion.config"
    pairs = {"model.io_channels": "io_channels", "model.conditioning.cond_dim": "global_cond_dim"}
    for path, key in pairs.items():
        size, other = (
            whole(config, path),
            whole(config, f"{network}.{key}", getattr(DiTConfig, key)),
        )
        if size and other and size != other:
            yield f"{path} is {size}, but {network}.{key} is {other}: they must be equal"
    channels, latent = (
        whole(config, "model.io_channels"),
        whole(config, f"{_AUTOENCODER}.latent_dim"),
    )
    if channels and latent and channels != NUM_TRACKS * latent:
        yield (
            f"model.io_channels is {channels}, expected {NUM_TRACKS} x {latent} latent channels "
            f"= {NUM_TRACKS * latent}"
        )


def _prompts(config: Mapping[str, Any]) -> Iterator[str]:
    """The conditioners that the network uses exist."""
    names = at(config, _PROMPTED)
    names = list(DiffusionConfig.global_cond_ids) if names is None else names
    entries = at(config, "model.conditioning.configs")
    if isinstance(names, list) and isinstance(entries, list):
        ids = [at(entry, "id") for entry in entries]
        if not names or any(name not in ids for name in names):
            yield f"{_PROMPTED}: expected ids of {found(ids)}, found {found(names)}"


def _reject_unsupported(sat_options: Mapping[str, Any]) -> None:
    """SAT passes every kind of conditioning it knows, mostly None; refuse what would be ignored."""
    unsupported = [
        name
        for name, value in sat_options.items()
        if value is not None and name not in _INERT_OPTIONS
    ]
    if unsupported:
        raise TypeError(f"the mge_dit network does not support {', '.join(sorted(unsupported))}")
