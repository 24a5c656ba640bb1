"""Settings of every test."""

import pytest
import torch

# The tests' networks are so small that a second thread, made to wait by a busy core, slows them
# manyfold; processes that tests start get OMP_NUM_THREADS from them.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Nothing of the user's own caches is read or written, here or in processes started here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
