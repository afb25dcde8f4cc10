"""SLURM: what is submitted, what a job does, and what the queue says."""
