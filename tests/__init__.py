"""A package, since a dependency installs another of this name."""
