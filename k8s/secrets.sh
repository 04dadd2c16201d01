#!/bin/sh
# Prints the secrets of MLflow and its stores, with passwords drawn anew, as YAML for kubectl:
#     sh k8s/secrets.sh | kubectl apply -f -
# Run it once: the database keeps the password of its first start. The passwords are in no file and in no manifest.
set -eu
if kubectl get secret postgres --namespace reid --request-timeout=10s >/dev/null 2>&1; then
    echo "the secrets are there already: kubectl get secret --namespace reid" >&2
    exit 2
fi
draw() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
mlflow=$(draw) key=$(draw) secret=$(draw)
cat <<YAML
apiVersion: v1
kind: Secret
metadata:
  name: postgres
  namespace: reid
stringData:
  password: "$(draw)"
---
apiVersion: v1
kind: Secret
metadata:
  name: artifact-store
  namespace: reid
stringData:
  access-key-id: "$key"
  secret-access-key: "$secret"
  s3.json: >-
    {"identities": [{"name": "mlflow", "credentials": [{"accessKey": "$key", "secretKey": "$secret"}], "actions": ["Admin"]}]}
---
apiVersion: v1
kind: Secret
metadata:
  name: mlflow
  namespace: reid
stringData:
  username: reid
  password: "$mlflow"
  session-key: "$(draw)"
---
apiVersion: v1
kind: Secret
metadata:
  name: reid-mlflow
  namespace: kubeflow
stringData:
  username: reid
  password: "$mlflow"
YAML
