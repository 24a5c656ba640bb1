"""Values in a JSON config of which nothing is certain."""

from collections.abc import Callable, Mapping
from typing import Any

from mge_plugin.config import ConfigError

Config = Mapping[str, Any]


def at(config: Any, path: str) -> Any:
    """The value at a dotted path, None where there is none."""
    for key in path.split("."):
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def as_list(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def is_whole(value: Any) -> bool:
    """Whether it is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def whole(config: Config, path: str, default: int | None = None) -> int | None:
    """The whole number above 0 at a dotted path; None if there is something else."""
    value = at(config, path)
    value = default if value is None else value
    return value if is_whole(value) else None


def problems_of(parse: Callable[..., Any], *arguments: Any) -> list[str]:
    """What `parse` finds wrong with its arguments."""
    try:
        parse(*arguments)
    except ConfigError as error:
        return list(error.problems)
    return []
