#!/usr/bin/env bash
# A run on the GPUs of a SLURM cluster, one process a GPU.
#
#   NAME=calm HOST=login.cluster.org DIRECTORY=/scratch/me/calm_jax \
#     launch/scripts/slurm.sh [--dry_run] ACTION [FLAGS OF launch.train]
#
# create    makes the directory and a virtual environment in it
# sync      copies this repository there, but for what git ignores, and
#           installs it
# run       submits launch.train with the flags that follow
# tail      follows the job's log
# stop      lets the run save and stop
# teardown  cancels the job and deletes the directory
#
# DIRECTORY: absolute, or relative to the home directory on the cluster.
# PYTHON (python3): 3.11 or newer, on the cluster; 3.12 for the newest jax.
# CUDA (13): 12 where the driver is made for that alone.
# NODES (1) and GPUS a node (8); PARTITION, ACCOUNT and TIME (1-00:00:00) as
# sbatch takes them. Two minutes before the time is up the run saves.
# shellcheck source=launch/scripts/common.sh
. "$(dirname "$0")/common.sh" "$@"
# shellcheck source=launch/scripts/xla_flags.sh
. "$repository/launch/scripts/xla_flags.sh"
need NAME HOST DIRECTORY
remote=$(quoted "$DIRECTORY")
log=$NAME.log

case $action in
  create)
    run ssh "$HOST" "mkdir -p $remote && cd $remote &&\
 ${PYTHON:-python3} -m venv .venv"
    ;;
  sync)
    run rsync --archive --exclude=.git --filter=':- .gitignore' \
      "$repository/" "$HOST:$DIRECTORY/"
    run ssh "$HOST" "cd $remote &&\
 .venv/bin/pip install -q -c constraints.txt -e '.[cuda${CUDA:-13}]'"
    ;;
  run)
    need_train_flags
    gpus=${GPUS:-8}
    options=(
      --job-name="$NAME" --output="$log" --open-mode=append --requeue
      --nodes="${NODES:-1}" --ntasks-per-node="$gpus" --gpus-per-node="$gpus"
      --time="${TIME:-1-00:00:00}" --signal=TERM@120
    )
    [[ -z ${PARTITION-} ]] || options+=(--partition="$PARTITION")
    [[ -z ${ACCOUNT-} ]] || options+=(--account="$ACCOUNT")
    command="srun .venv/bin/python -m launch.train --distributed $(
      quoted "${train_flags[@]}"
    )"
    run ssh "$HOST" "cd $remote && XLA_FLAGS='${gpu_flags[*]}'\
 sbatch $(quoted "${options[@]}") --wrap=$(quoted "$command")"
    ;;
  tail) run ssh "$HOST" "cd $remote && tail -n 100 -F $log" ;;
  stop) run ssh "$HOST" "scancel --signal=TERM --name=$NAME" ;;
  teardown) run ssh "$HOST" "scancel --name=$NAME; rm -rf $remote" ;;
  *) unknown_action ;;
esac
