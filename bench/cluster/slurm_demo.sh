#!/usr/bin/env bash
# A real Slurm of one node (Debian: slurm-wlm, munge), for as long as this script runs: the demo by two ranks under srun, and by an array of three shards.
# Needs root, as the daemons do. Usage: bench/cluster/slurm_demo.sh FLEXGEN_BINARY
set -euo pipefail
FLEXGEN=$(realpath "$1")
SOURCE=$(realpath "$(dirname "$0")/../..")
for tool in munged slurmctld slurmd sbatch; do
  command -v "$tool" >/dev/null || { echo "skipped: $tool is missing; apt-get install slurm-wlm munge"; exit 77; }
done
[ "$(id -u)" -eq 0 ] || { echo "skipped: Slurm's daemons need root"; exit 77; }
export FLEXGEN SOURCE WORK SLURM_CONF
WORK=$(mktemp -d /tmp/flexgen-slurm.XXXXXX)
SLURM_CONF=$WORK/slurm.conf
daemons=()
finish() {
  for daemon in "${daemons[@]}"; do kill "$daemon" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$WORK"
}
trap finish EXIT

# Who may speak: a key of our own.
mkdir -m 700 "$WORK/munge"
head -c 1024 /dev/urandom >"$WORK/munge/key"
chmod 400 "$WORK/munge/key"
chmod 755 "$WORK"
munged --foreground --force --key-file "$WORK/munge/key" --socket "$WORK/munge.socket" --pid-file "$WORK/munge/pid" --log-file "$WORK/munge/log" \
  --seed-file "$WORK/munge/seed" &
daemons+=($!)
host=$(hostname -s)
cores=$(nproc)
mkdir "$WORK/state" "$WORK/spool"
cat >"$SLURM_CONF" <<CONF
ClusterName=demo
SlurmctldHost=$host
SlurmUser=root
SlurmctldPort=26817
SlurmdPort=26818
AuthType=auth/munge
AuthInfo=socket=$WORK/munge.socket
CredType=cred/munge
StateSaveLocation=$WORK/state
SlurmdSpoolDir=$WORK/spool
SlurmctldPidFile=$WORK/slurmctld.pid
SlurmdPidFile=$WORK/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=pmix
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
CONF
echo 'CgroupAutomount=no' >"$WORK/cgroup.conf"
for _ in $(seq 50); do [ -S "$WORK/munge.socket" ] && break; sleep 0.1; done
slurmctld -D >"$WORK/slurmctld.log" 2>&1 &
daemons+=($!)
slurmd -D >"$WORK/slurmd.log" 2>&1 &
daemons+=($!)
for _ in $(seq 100); do
  sinfo -h -o %T 2>/dev/null | grep -q idle && break
  sleep 0.2
done
sinfo -h -o %T 2>/dev/null | grep -q idle || { echo "Slurm does not come up:"; tail -n 20 "$WORK/slurmctld.log" "$WORK/slurmd.log"; exit 1; }

run() { # name, script
  echo "== $1"
  sbatch --wait --output "$WORK/$1.log" "$2" || { cat "$WORK/$1".log; exit 1; }
}
run ranks "$SOURCE/bench/cluster/demo.sbatch"
cat "$WORK/ranks.log"
grep -q ' 1: compute' "$WORK/ranks.log" || { echo "the job did not run with two ranks"; exit 1; }
run shards "$SOURCE/bench/cluster/shards.sbatch"
"$FLEXGEN" merge -i "$SOURCE/demo/requests.jsonl" -o "$WORK/sharded.jsonl"
sort "$WORK/answers.jsonl" >"$WORK/a"
sort "$WORK/sharded.jsonl" >"$WORK/b"
cmp "$WORK/a" "$WORK/b"
echo "two ranks and three shards: the same $(wc -l <"$WORK/a") answers"
