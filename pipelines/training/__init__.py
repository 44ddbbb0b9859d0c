"""Training under Ray Train: the driver's description of the job, and the worker's loop."""
