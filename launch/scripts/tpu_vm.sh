#!/usr/bin/env bash
# A run on TPU VMs from a queued resource, over ssh.
#
#   NAME=calm PROJECT=my-project ZONE=us-east5-a TYPE=v5p-128 \
#     launch/scripts/tpu_vm.sh [--dry_run] ACTION [FLAGS OF launch.train]
#
# create    asks for the slice; it comes when there is one
# sync      copies this repository, as committed, to every host and installs it
# run       starts launch.train on every host with the flags that follow
# tail      follows the log of host 0
# stop      lets the run save and stop
# teardown  deletes the slice
#
# TYPE counts cores on v5p (v5p-128 is 4x4x4) and chips on v5litepod and v6e.
# VERSION: the TPU software, that of TYPE by default. SPOT=1: cheaper, may be
# taken back.
# shellcheck source=launch/scripts/common.sh
. "$(dirname "$0")/common.sh" "$@"
# shellcheck source=launch/scripts/xla_flags.sh
. "$repository/launch/scripts/xla_flags.sh"
need NAME PROJECT ZONE
place=(--project="$PROJECT" --zone="$ZONE")

on_workers() { # WORKERS COMMAND
  run gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" \
    --worker="$1" --command="$2"
}

case $action in
  create)
    need TYPE
    case $TYPE in
      v5p-*) version=v2-alpha-tpuv5 ;;
      v5litepod-*) version=v2-alpha-tpuv5-lite ;;
      v6e-*) version=v2-alpha-tpuv6e ;;
      *) need VERSION ;;
    esac
    spot=()
    [[ -z ${SPOT-} ]] || spot=(--spot)
    run gcloud compute tpus queued-resources create "$NAME" "${place[@]}" \
      --node-id="$NAME" --accelerator-type="$TYPE" \
      --runtime-version="${VERSION:-$version}" "${spot[@]}"
    ;;
  sync)
    archive=/tmp/$NAME.tar.gz
    run git -C "$repository" archive --format=tar.gz --output="$archive" HEAD
    run gcloud compute tpus tpu-vm scp "$archive" "$NAME:$archive" \
      "${place[@]}" --worker=all
    on_workers all "mkdir -p calm_jax && tar xzf $archive -C calm_jax &&\
 cd calm_jax && python3 -m pip install -q uv &&\
 python3 -m uv venv -q --seed --python 3.12 .venv &&\
 .venv/bin/pip install -q -c constraints.txt -e '.[tpu]'"
    ;;
  run)
    need_train_flags
    on_workers all "cd calm_jax || exit 1;\
 nohup env LIBTPU_INIT_ARGS='${tpu_flags[*]}'\
 .venv/bin/python -m launch.train --distributed $(quoted "${train_flags[@]}")\
 > train.log 2>&1 & echo \$! > train.pid"
    ;;
  tail) on_workers 0 'tail -n 100 -F calm_jax/train.log' ;;
  stop) on_workers all "kill -TERM \$(cat calm_jax/train.pid)" ;;
  teardown)
    run gcloud compute tpus queued-resources delete "$NAME" "${place[@]}" \
      --force --quiet
    ;;
  *) unknown_action ;;
esac
