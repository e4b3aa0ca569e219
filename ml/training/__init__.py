"""One training loop and what it needs: losses, sampling, augmentation, checkpoints."""
