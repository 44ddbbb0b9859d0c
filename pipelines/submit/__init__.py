"""Jobs on a cluster: what is checked, what is sent, and how a job is followed to its end."""
