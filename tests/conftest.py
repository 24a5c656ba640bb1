"""Settings of every test."""

import torch

# The tests' networks are so small that a second thread, made to wait by a busy core, slows them
# manyfold; processes that tests start get OMP_NUM_THREADS from them.
torch.set_num_threads(1)
