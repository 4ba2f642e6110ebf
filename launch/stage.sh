#!/usr/bin/env bash
# Copies prepared data to the memory or a disk of this host, into the first place with room for them,
# and prints the folder to read: the copy, or the source itself where they fit nowhere.
#
#   DATA=$(launch/stage.sh ~/bucket/data /dev/shm /mnt/disks/local)
#
# A set is read record by record in random order, for which a mounted bucket is too slow (the figures
# are in docs/tpu.md). A copy that is there already, with all files and sizes of the source, is used.
set -euo pipefail

[ $# -gt 0 ] || { echo "expected the folder of the data and places for a copy, found none" >&2; exit 2; }
[ -d "$1" ] || { echo "expected the folder of the data, found no folder $1: prepare the data first" >&2; exit 2; }
source=$(realpath "$1")
places=("${@:2}")
gib=$((1 << 30))
spare=$((${SPARE_GIB:-32} * gib)) # of memory, for the program itself

say() { echo "stage: $*" >&2; }
# Of what links lead to, too: data are often linked from a larger disk, and a copy holds the files.
listing() { (cd "$1" && find -L . -type f -printf '%s %p\n' | sort); }

# Bytes that may be filled: 5 % less than there are, and of memory not what the program needs. What
# lies in a tmpfs is in memory.
room() {
  local bytes available
  bytes=$(df --output=avail -B1 "$1" | tail -n 1)
  if [ "$(stat -f -c %T "$1")" = tmpfs ]; then
    available=$(($(free -b | awk '/^Mem:/ {print $7}') - spare))
    bytes=$((available < bytes ? available : bytes))
  fi
  echo $((bytes > 0 ? bytes * 95 / 100 : 0))
}

# Under another name until it is whole. A reader of a mounted bucket waits for each file: 16 at once,
# of which two that make the same folder would be in each other's way, so these come first.
copy() {
  rm -rf "$2" "$2.partial"
  mkdir -p "$2.partial"
  (cd "$1" && find -L . -type d -print0) | (cd "$2.partial" && xargs -0 mkdir -p) &&
    (cd "$1" && find -L . -type f -print0 | xargs -0 -r -P 16 -n 1 cp -L --parents -t "$2.partial") &&
    [ "$(listing "$1")" = "$(listing "$2.partial")" ] && mv "$2.partial" "$2"
}

size=$(du -sbLl "$source" | cut -f 1)
for place in "${places[@]}"; do
  [ -d "$place" ] && [ -w "$place" ] || continue
  place=$(realpath "$place") # which `copy` names from inside of the source
  target=$place/didicm-data
  if [ -d "$target" ] && [ "$(listing "$source")" = "$(listing "$target")" ]; then
    say "$target has the data already"
    echo "$target"
    exit
  fi
  rm -rf "$target" "$target.partial" # of other data, or of a copy that was cut off
  room=$(room "$place")
  if ((size > room)); then
    say "$place has room for $((room / gib)) GiB of $((size / gib))"
    continue
  fi
  say "copying $((size / gib)) GiB to $place"
  if copy "$source" "$target"; then
    echo "$target"
    exit
  fi
  say "the copy to $place failed"
  rm -rf "$target.partial"
done
say "reading from $source: random reads may not keep the devices busy, look at data_wait"
echo "$source"
