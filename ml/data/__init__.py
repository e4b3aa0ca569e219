"""From files on disk to `ml.volume.Volume`."""
