"""A three-track music model (MGE-LDM) for stable-audio-tools."""

__version__ = "0.1.0"


def install() -> None:
    """Register this plugin's components with stable-audio-tools; calling it twice is harmless."""
    from mge_plugin.registry import install as install_hooks

    install_hooks()
