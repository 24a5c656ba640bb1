"""Scripts that stable-audio-tools has in its repository but not in its package.

`python -m mge_plugin train.py` runs these where it finds no clone. They take the options of SAT's
scripts and call the same SAT functions in the same order. Differences: `train.py --max-steps` stops
a training, training runs on the CPU where there is no GPU, and unwrap_model.py and run_gradio.py
read checkpoints without running code from them.
"""

import argparse
import ast
import configparser
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.models.utils import (
    copy_state_dict,
    load_ckpt_state_dict,
    remove_weight_norm_from_model,
)
from stable_audio_tools.training import (
    create_demo_callback_from_config,
    create_training_wrapper_from_config,
)

from mge_plugin.config import ConfigError, read_json

# options of train.py: name, default, help; a defaults.ini replaces defaults
_TRAINING: dict[str, tuple[Any, str]] = {
    "name": ("stable_audio_tools", "name of the run, and of the logger's project"),
    "model_config": ("", "model config, JSON"),
    "dataset_config": ("", "dataset config, JSON"),
    "val_dataset_config": ("", "dataset config for validation and demos, JSON"),
    "save_dir": ("", "folder for checkpoints and demos"),
    "ckpt_path": ("", "checkpoint of a training to resume"),
    "pretrained_ckpt_path": ("", "unwrapped model to start from"),
    "pretransform_ckpt_path": ("", "unwrapped autoencoder"),
    "remove_pretransform_weight_norm": ("", "pre_load, post_load or nothing"),
    "batch_size": (4, "items per process and step"),
    "num_workers": (6, "processes that read data"),
    "accum_batches": (1, "batches per update"),
    "gradient_clip_val": (0.0, "largest norm of the gradient; 0: any"),
    "precision": ("16-mixed", "Lightning's precision, such as 32 or bf16-mixed"),
    "strategy": ("auto", "Lightning's strategy, such as ddp"),
    "num_nodes": (1, "machines"),
    "seed": (42, "random seed"),
    "max_steps": (-1, "updates after which training ends; -1: no limit"),
    "checkpoint_every": (10000, "updates between checkpoints, all of which are kept"),
    "val_every": (-1, "updates between validations; -1: none"),
    "logger": ("wandb", "wandb, comet or none"),
}


class _ConfigInCheckpoint(pl.Callback):
    """Stores the model config in every checkpoint, as SAT's train.py does."""

    def __init__(self, model_config: Mapping[str, Any]) -> None:
        self.model_config = model_config

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["model_config"] = self.model_config


def train(argv: Sequence[str]) -> None:
    """Train the model of a config on the data of a config."""
    torch.multiprocessing.set_sharing_strategy("file_system")
    options = _training_options(argv)
    pl.seed_everything(options.seed + int(os.environ.get("SLURM_PROCID", 0)), workers=True)
    paths = (options.model_config, options.dataset_config)
    model_config, dataset_config = (read_json(path) for path in paths)
    val_config = read_json(options.val_dataset_config) if options.val_dataset_config else None
    training_data = _loader(dataset_config, model_config, options)
    validation = val_config and _loader(val_config, model_config, options, shuffle=False)
    model = _initial_model(model_config, options)
    wrapper = create_training_wrapper_from_config(model_config, model)
    logger, folder = _logger(options, wrapper)
    demos = create_demo_callback_from_config(model_config, demo_dl=validation or training_data)
    checkpoints = pl.callbacks.ModelCheckpoint(
        every_n_train_steps=options.checkpoint_every,
        dirpath=folder and str(folder),  # Lightning 2.1 pickles it as it is
        save_top_k=-1,
    )
    if logger is not None:
        configs = {"model_config": model_config, "dataset_config": dataset_config}
        logger.log_hyperparams(vars(options) | configs | {"val_dataset_config": val_config})
    validating = {"check_val_every_n_epoch": None, "val_check_interval": options.val_every}
    trainer = pl.Trainer(
        accelerator="auto",
        devices="auto",
        num_nodes=options.num_nodes,
        strategy=options.strategy or "auto",
        precision=options.precision,
        accumulate_grad_batches=options.accum_batches,
        gradient_clip_val=options.gradient_clip_val,
        callbacks=[checkpoints, demos, _ConfigInCheckpoint(model_config)],
        logger=logger,
        log_every_n_steps=1,
        max_epochs=10_000_000,
        max_steps=options.max_steps,
        num_sanity_val_steps=0,
        default_root_dir=options.save_dir,
        **(validating if options.val_every > 0 else {}),
    )
    trainer.fit(wrapper, training_data, validation, ckpt_path=options.ckpt_path or None)


def _training_options(argv: Sequence[str]) -> argparse.Namespace:
    """The options of a command line, with the defaults of a defaults.ini if there is one."""
    files = argparse.ArgumentParser(add_help=False)
    files.add_argument("--config-file", default="defaults.ini", help="defaults of these options")
    ini = configparser.ConfigParser()
    ini.read(files.parse_known_args(argv)[0].config_file)
    stored = dict(ini["DEFAULTS"]) if "DEFAULTS" in ini else {}
    parser = argparse.ArgumentParser(
        "train.py", parents=[files], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for name, (default, text) in _TRAINING.items():
        kind, value = type(default), stored.get(name)
        value = default if value is None else kind(_literal(value))
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value, help=text)
    options = parser.parse_args(argv)
    for name in ("model_config", "dataset_config"):
        if not getattr(options, name):
            parser.error(f"--{name.replace('_', '-')} is required")
    return options


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _loader(
    config: Mapping[str, Any],
    model_config: Mapping[str, Any],
    options: argparse.Namespace,
    **shuffle: bool,
) -> Any:
    return create_dataloader_from_config(
        config,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        sample_rate=model_config["sample_rate"],
        sample_size=model_config["sample_size"],
        audio_channels=model_config.get("audio_channels", 2),
        **shuffle,
    )


def _initial_model(config: Mapping[str, Any], options: argparse.Namespace) -> Any:
    model, removal = create_model_from_config(config), options.remove_pretransform_weight_norm
    if options.pretrained_ckpt_path:
        copy_state_dict(model, load_ckpt_state_dict(options.pretrained_ckpt_path))
    if removal == "pre_load":
        remove_weight_norm_from_model(model.pretransform)
    if options.pretransform_ckpt_path:
        weights = load_ckpt_state_dict(options.pretransform_ckpt_path)
        model.pretransform.load_state_dict(weights)
    if removal == "post_load":
        remove_weight_norm_from_model(model.pretransform)
    return model


def _logger(options: argparse.Namespace, wrapper: Any) -> tuple[Any, Path | None]:
    """The logger, and the folder for checkpoints (None: Lightning's own choice)."""
    folder = Path(options.save_dir) if options.save_dir else None
    if options.logger == "wandb":
        logger = pl.loggers.WandbLogger(project=options.name)
        logger.watch(wrapper)
        run, project = logger.experiment.id, logger.experiment.project
        known = folder is not None and isinstance(run, str)  # rank 0 alone has a run
        return logger, folder / project / run / "checkpoints" if known else None
    if options.logger == "comet":
        logger = pl.loggers.CometLogger(project_name=options.name)
        known = folder is not None and isinstance(logger.version, str)
        return logger, folder / logger.name / logger.version / "checkpoints" if known else folder
    return None, folder


def unwrap_model(argv: Sequence[str]) -> None:
    """Write the model in a training's checkpoint, averaged weights where there are some."""
    parser = argparse.ArgumentParser("unwrap_model.py", description=unwrap_model.__doc__)
    parser.add_argument("--model-config", required=True)
    parser.add_argument("--ckpt-path", required=True)
    parser.add_argument("--name", default="exported_model", help="of the file, without its ending")
    parser.add_argument("--use-safetensors", action="store_true")
    options = parser.parse_args(argv)
    from mge_plugin.models.checkpoints import load_pickled

    config = read_json(options.model_config)
    wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
    checkpoint = load_pickled(Path(options.ckpt_path))
    weights = checkpoint.get("state_dict", {}) if isinstance(checkpoint, Mapping) else {}
    if missing := wrapper.load_state_dict(weights, strict=False).missing_keys:
        raise ConfigError(
            f"{options.ckpt_path}: not a training checkpoint of {options.model_config}, "
            f"{len(missing)} weights are missing, the first is {missing[0]}"
        )
    out = f"{options.name}.{'safetensors' if options.use_safetensors else 'ckpt'}"
    wrapper.export_model(out, use_safetensors=options.use_safetensors)
    sys.stdout.write(f"Wrote {out}\n")


def run_gradio(argv: Sequence[str]) -> None:
    """Open SAT's page with a model."""
    parser = argparse.ArgumentParser("run_gradio.py", description=run_gradio.__doc__)
    for name in ("pretrained-name", "model-config", "ckpt-path", "pretransform-ckpt-path", "title"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--share", action="store_true", help="reachable from the internet")
    for name in ("username", "password"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--model-half", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args(argv)
    from stable_audio_tools.interface.gradio import create_ui

    torch.manual_seed(42)
    page = create_ui(
        model_config_path=options.model_config,
        ckpt_path=options.ckpt_path,
        pretrained_name=options.pretrained_name,
        pretransform_ckpt_path=options.pretransform_ckpt_path,
        model_half=options.model_half,
        gradio_title=options.title,
    )
    login = None if options.username is None else (options.username, options.password)
    page.queue().launch(share=options.share, auth=login)


_SCRIPTS: dict[str, Callable[[Sequence[str]], None]] = {
    "train.py": train,
    "unwrap_model.py": unwrap_model,
    "run_gradio.py": run_gradio,
}


def main(script: str, argv: Sequence[str]) -> None:
    """Run a script by its name; a config that cannot be used is one sentence and exit code 1."""
    try:
        _SCRIPTS[script](argv)
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from error
