"""Networks: conditioning, the three-track diffusion transformer, the SAT model around it, checkpoints."""
