#!/usr/bin/env bash
# A run on GKE by XPK (pip install xpk).
#
#   NAME=calm PROJECT=my-project ZONE=us-east5-a TYPE=v5p-128 CLUSTER=pod \
#     IMAGE=us-docker.pkg.dev/my-project/my-repository/calm_jax \
#     launch/scripts/gke.sh [--dry_run] ACTION [FLAGS OF launch.train]
#
# create    makes the cluster
# sync      builds an image of this repository and pushes it
# run       starts launch.train on every host with the flags that follow
# tail      follows the log of host 0
# stop      ends the run; Kubernetes sends SIGTERM, so that it saves
# teardown  deletes the cluster
#
# NUM_SLICES: of TYPE, 1 by default. SPOT=1: cheaper, may be taken back.
# --workdir has to be a bucket, such as gs://bucket/run.
# shellcheck source=launch/scripts/common.sh
. "$(dirname "$0")/common.sh" "$@"
# shellcheck source=launch/scripts/xla_flags.sh
. "$repository/launch/scripts/xla_flags.sh"
need NAME PROJECT ZONE CLUSTER
place=(--cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE")

case $action in
  create)
    need TYPE
    capacity=--on-demand
    [[ -z ${SPOT-} ]] || capacity=--spot
    run xpk cluster create "${place[@]}" --tpu-type="$TYPE" \
      --num-slices="${NUM_SLICES:-1}" "$capacity"
    ;;
  sync)
    need IMAGE
    run docker build --platform=linux/amd64 --tag="$IMAGE" \
      --file="$repository/launch/scripts/Dockerfile" "$repository"
    run docker push "$IMAGE"
    ;;
  run)
    need IMAGE TYPE
    need_train_flags
    run xpk workload create --workload="$NAME" "${place[@]}" \
      --tpu-type="$TYPE" --num-slices="${NUM_SLICES:-1}" \
      --docker-image="$IMAGE" \
      --command="LIBTPU_INIT_ARGS='${tpu_flags[*]}' python -m launch.train --distributed $(
        quoted "${train_flags[@]}"
      )"
    ;;
  tail)
    run gcloud container clusters get-credentials "$CLUSTER" \
      --project="$PROJECT" --region="${ZONE%-*}"
    run kubectl logs --follow --tail=100 --selector="jobset.sigs.k8s.io/\
jobset-name=$NAME,batch.kubernetes.io/job-completion-index=0"
    ;;
  stop) run xpk workload delete --workload="$NAME" "${place[@]}" ;;
  teardown) run xpk cluster delete "${place[@]}" --force ;;
  *) unknown_action ;;
esac
