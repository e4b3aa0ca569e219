"""Where instances meet voxels: Celery tasks, the pipeline of one job, and the result objects."""
