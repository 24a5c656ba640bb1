"""Small stand-ins where no GPU, trained autoencoder or CLAP is at hand, and how they are fitted."""
