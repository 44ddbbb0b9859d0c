"""Tracking: runs, metrics, data sets, models, images and the report, sent to an MLflow server.

MLflow reads its settings from the environment, some of them at import. They are set here, before
any module of this package imports MLflow, unless the user has set them.
"""

import os

MLFLOW_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the outbox repeats requests without blocking
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # the terminal shows the pipeline's progress
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
for _name, _value in MLFLOW_SETTINGS.items():
    os.environ.setdefault(_name, _value)
