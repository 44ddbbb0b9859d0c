"""What a tracking server is told: runs, metrics, data sets, models, pictures and the report."""
