"""Voxels: simulated and real head CT in, hemorrhage probability out. Usable without the node."""
