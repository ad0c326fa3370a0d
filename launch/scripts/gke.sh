#!/usr/bin/env bash
# A run on GKE, by gcluster of Cluster Toolkit or by XPK.
#
#   NAME=calm PROJECT=my-project ZONE=us-east5-a TYPE=v5p-128 CLUSTER=pod \
#     IMAGE=us-docker.pkg.dev/my-project/my-repository/calm_jax \
#     launch/scripts/gke.sh [--dry_run] ACTION [FLAGS OF launch.train]
#
# create    makes the cluster
# sync      builds an image of this repository and pushes it
# run       starts launch.train on every host with the flags that follow
# tail      follows the log
# stop      ends the run; Kubernetes sends SIGTERM, so that it saves
# teardown  deletes the cluster
#
# TOOL=gcluster (default) | xpk. TYPE as the tool takes it: with gcluster a
# shorthand such as v6e-256, or a machine and its shape, TYPE=tpu7x-standard-4t
# TOPOLOGY=4x4x4, which Ironwood (tpu7x) always needs.
# NUM_SLICES: of TYPE, 1 by default. RESTARTS: of a job that was preempted or
# failed, 10 by default; it goes on from its last step.
# create: with gcluster BLUEPRINT and DEPLOYMENT, files as those of its examples,
# and the folder of the deployment is CLUSTER; they say what is spot capacity.
# With xpk SPOT=1: cheaper, may be taken back.
# --workdir has to be a bucket, such as gs://bucket/run.
# shellcheck source=launch/scripts/common.sh
. "$(dirname "$0")/common.sh" "$@"
# shellcheck source=launch/scripts/xla_flags.sh
. "$repository/launch/scripts/xla_flags.sh"
need NAME PROJECT ZONE CLUSTER
tool=${TOOL:-gcluster}
case $tool in
  gcluster) place=(--cluster="$CLUSTER" --project="$PROJECT" --location="$ZONE") ;;
  xpk) place=(--cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE") ;;
  *) fail "TOOL is '$tool'; give gcluster or xpk." ;;
esac

case $action in
  create)
    if [[ $tool == gcluster ]]; then
      need BLUEPRINT DEPLOYMENT
      run gcluster deploy --deployment-file="$DEPLOYMENT" "$BLUEPRINT"
    else
      need TYPE
      capacity=--on-demand
      [[ -z ${SPOT-} ]] || capacity=--spot
      run xpk cluster create "${place[@]}" --tpu-type="$TYPE" \
        --num-slices="${NUM_SLICES:-1}" "$capacity"
    fi
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
    command="LIBTPU_INIT_ARGS='${tpu_flags[*]}' python -m launch.train --distributed $(
      quoted "${train_flags[@]}"
    )"
    shape=()
    [[ -z ${TOPOLOGY-} ]] || shape=(--topology="$TOPOLOGY")
    if [[ $tool == gcluster ]]; then
      run gcluster job submit --name="$NAME" "${place[@]}" \
        --compute-type="$TYPE" "${shape[@]}" --num-slices="${NUM_SLICES:-1}" \
        --image="$IMAGE" --restarts="${RESTARTS:-10}" --command="$command"
    else
      run xpk workload create --workload="$NAME" "${place[@]}" \
        --tpu-type="$TYPE" --num-slices="${NUM_SLICES:-1}" \
        --docker-image="$IMAGE" --max-restarts="${RESTARTS:-10}" \
        --command="$command"
    fi
    ;;
  tail)
    if [[ $tool == gcluster ]]; then
      run gcluster job logs "$NAME" "${place[@]}" -f
    else
      run gcloud container clusters get-credentials "$CLUSTER" \
        --project="$PROJECT" --region="${ZONE%-*}"
      run kubectl logs --follow --tail=100 --selector="jobset.sigs.k8s.io/\
jobset-name=$NAME,batch.kubernetes.io/job-completion-index=0"
    fi
    ;;
  stop)
    if [[ $tool == gcluster ]]; then
      run gcluster job cancel "$NAME" "${place[@]}"
    else
      run xpk workload delete --workload="$NAME" "${place[@]}"
    fi
    ;;
  teardown)
    if [[ $tool == gcluster ]]; then
      run gcluster destroy "$CLUSTER"
    else
      run xpk cluster delete "${place[@]}" --force
    fi
    ;;
  *) unknown_action ;;
esac
