"""Training under Ray Train: the job that the driver describes, and the loop that a worker runs."""
