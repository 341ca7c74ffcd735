#!/usr/bin/env bash
# Serve the bundle in /bundle, or the bundles of a live repository there. Arguments go on to tritonserver;
# docs/serving.md lists the settings.
set -euo pipefail

bundle=${FUNDUS_BUNDLE:-/bundle}
models=${FUNDUS_MODELS:-/models}
tls=${FUNDUS_TLS:-/tls}
tensorrt=${FUNDUS_TENSORRT:-0}
admin_key=${FUNDUS_ADMIN_KEY:-$(</proc/sys/kernel/random/uuid)}
admin=shared-memory,model-repository,statistics,trace,logging

die() {
  echo "$*" >&2
  exit 2
}

flags=(
  --model-control-mode=explicit
  --disable-auto-complete-config
  --exit-timeout-secs=30
  # HTTP knows no TLS: it answers to health checks only.
  "--http-restricted-api=metadata,model-config,inference,$admin:fundus-admin-key=$admin_key"
  "--grpc-restricted-protocol=$admin:fundus-admin-key=$admin_key"
)

load() { # with an ensemble come the models that it is made of, but not the one that asks fewer of them
  local repository=$1 ensemble adaptive
  flags+=("--model-repository=$repository")
  for ensemble in "${@:2}"; do
    flags+=("--load-model=$ensemble")
    adaptive=${ensemble/#fundus_ensemble/fundus_adaptive}
    if [[ -e $repository/$adaptive/config.pbtxt ]]; then flags+=("--load-model=$adaptive"); fi
  done
}

serve_copy() {
  [[ -w $models ]] || die "$models needs a volume that user $(id -u) may write to."
  # A plan is this machine's own: it stays from an earlier start, for it takes minutes, and none comes from a bundle.
  find "$models" -type f ! -name 'model.plan*' ! -name 'timing*.cache' -delete
  local own=(--exclude='model.plan*' --exclude='timing*.cache' --exclude=__pycache__)
  tar --directory "$bundle" "${own[@]}" --mode=u+rwX --create . | tar --directory "$models" --extract
  for fold in "$models"/fundus_fold_*; do # of an earlier bundle with more folds: its plans are nobody's
    if [[ ! -e $fold/config.pbtxt ]]; then rm -r "$fold"; fi
  done
  fundus-export check "$models"
  if [[ $tensorrt == 1 ]]; then fundus-export tensorrt "$models"; fi
  fundus-export configs "$models" --fit # without a GPU each fold would take all cores
  load "$models" fundus_ensemble
  flags+=(--strict-readiness=true)
}

need_plans() { # of each fold of these ensembles
  local ensemble fold
  for ensemble in "$@"; do
    for fold in "$bundle"/fundus_fold_*"${ensemble#fundus_ensemble}"; do
      [[ -e $fold/1/model.plan ]] || die "${fold##*/} has no TensorRT plan, and a live repository gets none" \
        "here. Run \`fundus-export tensorrt BUNDLE\` on this machine, then \`fundus-export deploy\` into a" \
        "new folder; or set FUNDUS_TENSORRT=0."
    done
  done
}

serve_live() { # where it lies, for `fundus-export deploy` changes it; its bundles bring plans of their own
  fundus-export check "$bundle"
  mapfile -t ensembles < <(grep --only-matching 'fundus_ensemble_[0-9a-f]*' "$bundle/live.json" | sort --unique)
  if [[ $tensorrt == 1 ]]; then need_plans "${ensembles[@]}"; fi
  load "$bundle" fundus_ensemble "${ensembles[@]}"
  flags+=(--strict-readiness=false) # a strict server is "not ready" while it loads another bundle
}

if [[ -e $bundle/live.json ]]; then serve_live; else serve_copy; fi
if [[ $tensorrt == 1 ]]; then flags+=(--model-config-name=tensorrt); fi

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
