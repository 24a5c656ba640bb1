"""Networks: conditioning, the three-track DiT, the SAT model around it, checkpoints."""
