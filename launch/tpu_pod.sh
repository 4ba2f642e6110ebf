#!/usr/bin/env bash
# Trains on a Cloud TPU slice of any number of hosts: makes it, installs, runs, fetches nothing.
#
#   ZONE=us-central2-b PROJECT=my-project BUCKET=my-bucket launch/tpu_pod.sh \
#       --config=configs/imagenet.py:recipe=strong,model=didirn50
#
# All hosts run the same command; JAX finds the others by itself. The bucket holds the prepared data
# (BUCKET/data, from launch/prepare.py) and the run (gs://BUCKET/runs/NAME). gcsfuse mounts it on every
# host for the data, which are copied to the host's memory, or to one of the disks in STAGE, where they
# fit (launch/stage.sh). Start it again after a preemption: what exists is used, and the run goes on
# from its last checkpoint.
set -euo pipefail

: "${PROJECT:?expected the project that pays, as PROJECT=...}"
: "${ZONE:?expected a zone with TPUs, as ZONE=us-central2-b}"
: "${BUCKET:?expected a bucket in the same region, as BUCKET=...}"
NAME=${NAME:-didicm}                         # of the slice and of the run
TYPE=${TYPE:-v4-128}                         # 64 chips on 16 hosts
VERSION=${VERSION:-tpu-ubuntu2204-base}      # the image of the hosts; Python 3.11 or later is added
STAGE=${STAGE:-/dev/shm}                     # where each host may copy the data to, in this order
REPOSITORY=${REPOSITORY:-$(git -C "$(dirname "$0")" remote get-url origin)}
COMMIT=${COMMIT:-$(git -C "$(dirname "$0")" rev-parse HEAD)}
[ $# -gt 0 ] || { echo "expected the arguments of launch/main.py, found none" >&2; exit 2; }

tpu() { gcloud compute tpus tpu-vm "$1" "$NAME" --project="$PROJECT" --zone="$ZONE" "${@:2}"; }

state=$(tpu describe --format='value(state)' 2>/dev/null || true)
case $state in
  PREEMPTED | TERMINATED) # what is left of a slice that was taken away cannot be started again
    tpu delete --quiet
    state=
    ;;
esac
if [ -z "$state" ]; then
  # --spot costs a fraction and may be taken away at any time: SIGTERM comes first, and the run saves.
  tpu create --accelerator-type="$TYPE" --version="$VERSION" --spot
fi

# %q: the arguments pass two shells and must arrive as they are.
arguments=$(printf '%q ' "$@")
read -r -d '' script <<REMOTE || true
set -euo pipefail
if ! mountpoint -q ~/bucket; then
  command -v gcsfuse >/dev/null || {
    echo "deb https://packages.cloud.google.com/apt gcsfuse-\$(lsb_release -cs) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo apt-key add -
    sudo apt-get update -q && sudo apt-get install -yq gcsfuse
  }
  mkdir -p ~/bucket && gcsfuse --implicit-dirs -o ro $BUCKET ~/bucket
fi
command -v uv >/dev/null || python3 -m pip install -q --user uv
export PATH=~/.local/bin:\$PATH
[ -d ~/didicm ] || git clone -q $REPOSITORY ~/didicm
cd ~/didicm && git fetch -q && git checkout -q $COMMIT
[ -d .venv ] || uv venv -q --python 3.12 .venv
uv pip install -q --python .venv -e '.[tpu,gcs]'
data=\$(launch/stage.sh ~/bucket/data $STAGE)
# exec: signals reach the run itself.
exec .venv/bin/python launch/main.py --workdir=gs://$BUCKET/runs/$NAME \
  --config.data.data_dir="\$data" $arguments
REMOTE

# Every host at once; the output of the first is that of the run.
tpu ssh --worker=all --command="$script"
