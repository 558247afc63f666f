#!/usr/bin/env bash
# Runs a command inside a block I/O cgroup (v1 or v2) that holds the disk of a folder to given speeds, so that a disk shared with other machines, whose speed
# changes within minutes, is as fast when it is measured as when it is used. Needs root, and a disk that is faster than that whatever its neighbours do.
# The kernel counts by tenths of a second on a disk that it takes to turn, so one that was idle gives so much at once; of others by fiftieths. Where
# /sys/block/DISK/queue/rotational says 1, a file system on a loop device is steadier:
#   losetup --find --show --direct-io=on FILE; echo 0 > /sys/block/loopN/queue/rotational; mkfs.ext4 /dev/loopN; mount /dev/loopN FOLDER
# Usage: bench/disk_cap.sh FOLDER READ_MB_PER_S WRITE_MB_PER_S COMMAND...
set -euo pipefail
folder=$1 read=$(($2 * 1000000)) write=$(($3 * 1000000))
shift 3
disk=$(findmnt --noheadings --output SOURCE --target "$folder")
disk=$(lsblk --noheadings --output PKNAME "$disk" 2>/dev/null | grep . | head -1 | sed 's,^,/dev/,' || echo "$disk")  # limits hold for whole disks
number=$(printf '%d:%d' "0x$(stat --format %t "$disk")" "0x$(stat --format %T "$disk")")
name=flexgen-disk-cap-$$
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
  group=/sys/fs/cgroup/$name
  mkdir "$group"
  echo "$number rbps=$read wbps=$write" >"$group/io.max"
else
  group=/sys/fs/cgroup/blkio/$name
  mkdir "$group"
  echo "$number $read" >"$group/blkio.throttle.read_bps_device"
  echo "$number $write" >"$group/blkio.throttle.write_bps_device"
fi
cleanup() { rmdir "$group" 2>/dev/null || true; }
trap cleanup EXIT
bash -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$group" "$@"
