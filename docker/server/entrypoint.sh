#!/usr/bin/env bash
# Serve the bundle in /bundle. Arguments go on to tritonserver; docs/serving.md lists the settings.
set -euo pipefail

bundle=${FUNDUS_BUNDLE:-/bundle}
models=${FUNDUS_MODELS:-/models}
tls=${FUNDUS_TLS:-/tls}
admin_key=${FUNDUS_ADMIN_KEY:-$(</proc/sys/kernel/random/uuid)}
admin=shared-memory,model-repository,statistics,trace,logging

die() {
  echo "$*" >&2
  exit 2
}

[[ -w $models ]] || die "$models needs a volume that user $(id -u) may write to."
# A plan is this machine's own: it stays from an earlier start, for it takes minutes, and none comes from a bundle.
find "$models" -type f ! -name 'model.plan*' ! -name 'timing*.cache' -delete
own=(--exclude='model.plan*' --exclude='timing*.cache' --exclude=__pycache__)
tar --directory "$bundle" "${own[@]}" --mode=u+rwX --create . | tar --directory "$models" --extract
fundus-export check "$models"

flags=(
  "--model-repository=$models"
  --model-control-mode=explicit --load-model=fundus_ensemble # and the models that it is made of
  --disable-auto-complete-config
  --strict-readiness=true
  --exit-timeout-secs=30
  # HTTP knows no TLS: it answers to health checks only.
  "--http-restricted-api=metadata,model-config,inference,$admin:fundus-admin-key=$admin_key"
  "--grpc-restricted-protocol=$admin:fundus-admin-key=$admin_key"
)

if [[ ${FUNDUS_TENSORRT:-0} == 1 ]]; then
  fundus-export tensorrt "$models"
  flags+=(--model-config-name=tensorrt)
fi

found=$(ls -A "$tls") # an empty folder: no TLS; anything else in it that cannot be used: no server
if [[ -n $found ]]; then
  [[ -r $tls/tls.crt && -r $tls/tls.key ]] || die "$tls needs tls.crt and tls.key, readable by user $(id -u)."
  flags+=(--grpc-use-ssl=true "--grpc-server-cert=$tls/tls.crt" "--grpc-server-key=$tls/tls.key")
  if [[ -e $tls/client-ca.crt ]]; then
    flags+=(--grpc-use-ssl-mutual=true "--grpc-root-cert=$tls/client-ca.crt")
  fi
else
  echo "gRPC is not encrypted: $tls is empty."
fi

exec tritonserver "${flags[@]}" "$@"
