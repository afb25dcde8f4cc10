"""Who makes the runs of a plan: worker processes on this machine, or SLURM."""
