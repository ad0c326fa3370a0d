# shellcheck shell=bash disable=SC2034
# What the scripts share: settings from variables, and commands that --dry_run
# prints instead of running them. Sourced, not run.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
dry_run=false
if [[ ${1-} == --dry_run ]]; then
  dry_run=true
  shift
fi
action=${1-}
[[ $# -gt 0 ]] && shift
train_flags=("$@") # of launch.train

fail() {
  echo "error: $*" >&2
  exit 1
}

# Ends in one line unless every variable named has a value.
need() {
  local setting
  for setting in "$@"; do
    [[ -n ${!setting-} ]] || fail "$setting is not set; see the top of $0."
  done
}

# Prints a command as a shell would read it, and runs it unless --dry_run.
run() {
  quoted "$@"
  $dry_run || "$@"
}

# One line that a shell, here or on another machine, reads as these words.
quoted() {
  local word words=()
  for word in "$@"; do
    [[ $word && $word != *[!A-Za-z0-9_./:=,@%+-]* ]] || word=${word@Q}
    words+=("$word")
  done
  printf '%s\n' "${words[*]}"
}

# Compiled programs are kept beside the run, for the start after a preemption.
need_train_flags() {
  [[ ${#train_flags[@]} -gt 0 ]] ||
    fail "$action needs the flags of launch.train, --config and --workdir."
  local flag cache=
  for flag in "${train_flags[@]}"; do
    case $flag in
      --compilation_cache=*) return ;;
      --workdir=*) cache=${flag#--workdir=} ;;
    esac
  done
  [[ -z $cache ]] || train_flags+=("--compilation_cache=${cache%/}.compiled")
}

unknown_action() {
  fail "action '$action' is not known; give one of" \
    "create, sync, run, tail, stop, teardown."
}
