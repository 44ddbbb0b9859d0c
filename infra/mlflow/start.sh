#!/bin/sh
# Starts the tracking server; all settings come from the environment (see compose.yaml).
set -eu

# MLflow reads the address of its user database only from a file. It reads the admin's initial
# password from MLFLOW_AUTH_ADMIN_PASSWORD.
umask 077
MLFLOW_AUTH_CONFIG_PATH=$(mktemp)
export MLFLOW_AUTH_CONFIG_PATH
cat > "$MLFLOW_AUTH_CONFIG_PATH" <<INI
[mlflow]
default_permission = EDIT
database_uri = $MLFLOW_BACKEND_STORE_URI
INI

exec mlflow server --app-name basic-auth \
    --host "${MLFLOW_BIND:-0.0.0.0}" --port "${MLFLOW_LISTEN_PORT:-5000}" --workers 2 \
    --backend-store-uri "$MLFLOW_BACKEND_STORE_URI" \
    --artifacts-destination "$MLFLOW_ARTIFACTS" \
    --allowed-hosts "$MLFLOW_ALLOWED_HOSTS"
