"""The corpora of a dataset config file, one by one: what is wrong with one hides no other."""

from pathlib import Path

from mge_plugin.config import ConfigError, parse_section, read_json
from mge_plugin.data.corpora.cache import AUTO, cache_folder
from mge_plugin.data.corpora.config import CorpusConfig, check_weights
from mge_plugin.data.corpora.index import Corpus, read_corpus
from mge_plugin.data.corpora.renderings import check_stems
from mge_plugin.data.corpora.sums import check_sums


def index_config(
    path: Path, sums: bool = False, stems: bool = False
) -> tuple[list[Corpus], list[str]]:
    """The corpora that can be used, and in words what keeps others from it.

    With `sums`, their reports say of which songs the stems do not sum to the mixture; with `stems`,
    which stems are nothing but white noise or one tone.
    """
    content = read_json(path)
    entries = content.get("datasets")
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: datasets: expected one corpus or more, found none")
    setting = content.get("index_cache", AUTO)
    if setting is not None and not isinstance(setting, str):
        raise ConfigError(f"{path}: index_cache: expected a folder or null, found {setting!r}")
    folder = cache_folder(setting)
    configs = [
        parse_section(CorpusConfig, entry, f"{path}: datasets[{i}]")
        for i, entry in enumerate(entries)
    ]
    if wrong := check_weights(tuple(configs)):
        raise ConfigError(*(f"{path}: {problem}" for problem in wrong))
    corpora, problems = [], []
    for config in configs:
        try:
            corpora.append(read_corpus(config, folder))
            if sums:
                corpora[-1].report.merge(check_sums(config, folder))
            if stems:
                corpora[-1].report.merge(check_stems(corpora[-1]))
        except (ConfigError, OSError) as error:
            problems.append(f"datasets: {config.id}: {error}")
    return corpora, problems
