"""Rules of a model config: the three-track model, or the autoencoder that it needs first."""

from collections.abc import Iterator, Mapping
from dataclasses import fields

from mge_plugin.check.autoencoder import check_autoencoder
from mge_plugin.check.values import Config, as_list, at, problems_of, whole
from mge_plugin.config import found, parse_section
from mge_plugin.registry import DIFFUSION_TYPE, is_our_model

NETWORK = "model.diffusion.config"
AUTOENCODER = "model.pretransform.config"
PROMPTED = "model.diffusion.global_cond_ids"

# Modules of ours that import torch are imported in the rules that need them: without a model config
# that can be read, none does.


def check_model(config: Config) -> list[str]:
    """What keeps the model, or the autoencoder, of a model config from being built."""
    if is_our_model(config):
        rules = (_types, _sections, _equal_sizes, _latents, _prompts)
        problems = [problem for rule in rules for problem in rule(config)]
        return problems + check_autoencoder(config, AUTOENCODER)
    if config.get("model_type") == "autoencoder":
        return check_autoencoder(config, "model")
    return [
        f"expected model.diffusion.type {DIFFUSION_TYPE!r} or model_type 'autoencoder', "
        f"found {found(at(config, 'model.diffusion.type'))} and {found(config.get('model_type'))}"
    ]


def check_training(config: Config) -> list[str]:
    """What keeps a three-track model from being trained; an autoencoder's training is SAT's."""
    if not is_our_model(config):
        return []
    from mge_plugin.training.config import training_config

    problems = problems_of(training_config, config)
    optimizer = at(config, "training.optimizer_configs.diffusion")
    if not isinstance(optimizer, Mapping) and at(config, "training.learning_rate") is None:
        problems.append("training: learning_rate or optimizer_configs.diffusion is needed")
    return problems


def check_files(config: Config) -> Iterator[str]:
    """What a model is asked with and is not on disk: CLAP's files."""
    from mge_plugin.models.clap.config import ClapConfig

    for i, entry in enumerate(as_list(at(config, "model.conditioning.configs"))):
        section, where = at(entry, "config"), f"model.conditioning.configs[{i}].config"
        is_clap = at(entry, "type") == "mge_clap"
        if is_clap and not problems_of(parse_section, ClapConfig, section, where):
            clap = parse_section(ClapConfig, section, where)
            yield from (f"{where}.{problem}" for problem in clap.problems())


def _types(config: Config) -> Iterator[str]:
    expected = {"model_type": "diffusion_cond_inpaint", "model.pretransform.type": "autoencoder"}
    for path, name in expected.items():
        if at(config, path) != name:
            yield f"{path}: expected {name!r}, found {found(at(config, path))}"


def _sections(config: Config) -> list[str]:
    """Unknown and missing keys, wrong types, sizes that a section's own rules refuse."""
    from mge_plugin.models.conditioning import create_conditioner
    from mge_plugin.models.mge import ModelConfig

    problems = problems_of(parse_section, ModelConfig, config["model"], "model")
    conditioning = at(config, "model.conditioning")
    if isinstance(conditioning, Mapping):
        problems += problems_of(create_conditioner, conditioning)
    return problems


def _equal_sizes(config: Config) -> Iterator[str]:
    from mge_plugin.models.dit import DiTConfig

    defaults = {field.name: field.default for field in fields(DiTConfig)}
    pairs = {"model.io_channels": "io_channels", "model.conditioning.cond_dim": "global_cond_dim"}
    for path, key in pairs.items():
        size, other = whole(config, path), whole(config, f"{NETWORK}.{key}", defaults[key])
        if None not in (size, other) and size != other:
            yield f"{path} is {size}, but {NETWORK}.{key} is {other}: they must be equal"


def _latents(config: Config) -> Iterator[str]:
    from mge_plugin.tracks import NUM_TRACKS

    channels, latent = (
        whole(config, "model.io_channels"),
        whole(config, f"{AUTOENCODER}.latent_dim"),
    )
    if None not in (latent, channels) and channels != NUM_TRACKS * latent:
        yield (
            f"model.io_channels is {channels}, expected {NUM_TRACKS} x {latent} latent channels "
            f"= {NUM_TRACKS * latent}"
        )


def _prompts(config: Config) -> Iterator[str]:
    """The prompts that the network listens to are some of those that are embedded."""
    from mge_plugin.models.mge import DiffusionConfig

    names = at(config, PROMPTED)
    names = list(DiffusionConfig.global_cond_ids) if names is None else names
    entries = at(config, "model.conditioning.configs")
    if isinstance(names, list) and isinstance(entries, list):
        ids = [at(entry, "id") for entry in entries]
        if not names or any(name not in ids for name in names):
            yield f"{PROMPTED}: expected ids of {found(ids)}, found {found(names)}"
