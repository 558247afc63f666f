#!/usr/bin/env python3
"""Two ranks as two hosts: network namespaces joined by a pair of virtual cards whose speed and delay tc netem sets, measured with flexgen bench; and one rank
with half the total memory. Where the kernel has no netem, a process of this script is the link: it passes the packets of two tun devices on, at the speed and
after the delay. Needs root (namespaces), iproute2, openmpi-bin. One table on stdout, with what the plan predicted of each run; --json for the figures.

The speed and delay hold in each direction, so a round trip takes twice the delay. Both hosts share this machine, a core each; a host's profile says what it does
while the other works too. So the machine is measured first (some two minutes; nothing else should run): one core alone, for the single rank, then both cores at once, for
the two. --hardware ALONE BOTH gives these profiles. The links are measured by flexgen itself.

Usage: two_hosts.py FLEXGEN_BINARY [--model SHAPE] [--cpu-memory SIZE] [--num-prompts N] ... [--json FILE]"""

import argparse
import collections
import ctypes
import fcntl
import json
import multiprocessing
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time

# Name, Mbit/s, milliseconds.
LINKS = [("no limit", None), ("1 Gbit/s", (1000, 0)), ("100 Mbit/s, 10 ms", (100, 10)), ("1 Gbit/s, 100 ms", (1000, 100))]
NETWORK = "10.213.77"


def sh(command):
    subprocess.run(command, shell=True, check=True)


def has_netem():
    subprocess.run("ip netns add flexgen-probe", shell=True, check=True)
    try:
        return subprocess.run("ip netns exec flexgen-probe tc qdisc add dev lo root netem delay 1ms", shell=True, stderr=subprocess.DEVNULL).returncode == 0
    finally:
        sh("ip netns del flexgen-probe")


def be_the_link(mbit, delay_ms, ready):
    """A tun device in each namespace; what comes out of one goes into the other."""
    libc = ctypes.CDLL(None, use_errno=True)
    ends = []
    for name in "ab":
        with open(f"/run/netns/flexgen-{name}") as namespace:
            if libc.setns(namespace.fileno(), 0x40000000) != 0:  # CLONE_NEWNET
                raise OSError(ctypes.get_errno(), "setns")
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(end, 0x400454CA, f"veth-f{name}".encode().ljust(16, b"\0") + (0x1001).to_bytes(2, "little") + bytes(22))  # TUNSETIFF, tun without packet info
        ends.append(end)
    ready.set()
    waiting = [collections.deque(), collections.deque()]  # packets on their way to each end, with their times of arrival
    free_at = [0.0, 0.0]
    while True:
        now = time.monotonic()
        next_s = min((queue[0][0] for queue in waiting if queue), default=now + 1)
        readable, _, _ = select.select(ends, [], [], max(0.0, next_s - now))
        now = time.monotonic()
        for end in readable:
            to = 1 - ends.index(end)
            for _ in range(32):
                try:
                    packet = os.read(end, 65536)
                except BlockingIOError:
                    break
                free_at[to] = max(free_at[to], now) + 8 * len(packet) / (mbit * 1e6)
                waiting[to].append((free_at[to] + delay_ms / 1e3, packet))
        now = time.monotonic()
        for to in (0, 1):
            while waiting[to] and waiting[to][0][0] <= now:
                try:
                    os.write(ends[to], waiting[to].popleft()[1])
                except OSError:
                    pass  # full, or not up yet: lost, as on any link


class Hosts:
    """Two namespaces, flexgen-a and flexgen-b, each with a host name of its own when something runs in it."""

    def __init__(self, work):
        self.agent = os.path.join(work, "agent")
        self.process = None
        self.remove()
        self.netem = has_netem()
        with open(self.agent, "w") as file:  # in the place of ssh: the first word is the address, the rest the command
            file.write(f"#!/bin/sh\nhost=$1; shift\ncase $host in {NETWORK}.1) name=a;; *) name=b;; esac\n"
                       'exec ip netns exec flexgen-$name unshare --uts sh -c "hostname host-$name; $*"\n')
        os.chmod(self.agent, 0o755)

    def link(self, limits):
        self.remove()
        for name in "ab":
            sh(f"ip netns add flexgen-{name}")
        if limits and not self.netem:
            ready = multiprocessing.Event()
            self.process = multiprocessing.Process(target=be_the_link, args=(*limits, ready), daemon=True)
            self.process.start()
            if not ready.wait(10):
                sys.exit("cannot make tun devices (/dev/net/tun)")
        else:
            sh("ip link add veth-fa netns flexgen-a type veth peer name veth-fb netns flexgen-b")
        for name, number in (("a", 1), ("b", 2)):
            inside = f"ip -n flexgen-{name}"
            sh(f"{inside} addr add {NETWORK}.{number}/24 dev veth-f{name} && {inside} link set veth-f{name} up && {inside} link set lo up")
            if self.process:
                sh(f"{inside} link set veth-f{name} mtu 65000 txqueuelen 10000")  # few large packets: this link is a script
            elif limits:
                sh(f"ip netns exec flexgen-{name} tc qdisc add dev veth-f{name} root netem limit 100000 rate {limits[0]}mbit delay {limits[1]}ms")
        if limits:
            out = subprocess.run(f"ip netns exec flexgen-a ping -q -c 3 -i 0.3 {NETWORK}.2", shell=True, capture_output=True, text=True).stdout
            self.round_trip = out.strip().splitlines()[-1] if "rtt" in out else "not measured (no ping)"

    def mpirun(self, command, timeout_s):
        launch = ["ip", "netns", "exec", "flexgen-a", "unshare", "--uts", "sh", "-c", 'hostname host-a; exec "$@"', "sh", "mpirun", "--allow-run-as-root",
                  "--host", f"{NETWORK}.1,{NETWORK}.2", "-n", "2", "--bind-to", "none", "--mca", "plm_rsh_agent", self.agent, "--mca", "btl", "tcp,self",
                  "--mca", "btl_tcp_if_include", f"{NETWORK}.0/24", "--mca", "oob_tcp_if_include", f"{NETWORK}.0/24"]
        return subprocess.run(launch + command, capture_output=True, text=True, timeout=timeout_s)

    def remove(self):
        if self.process:
            self.process.terminate()
            self.process.join()
            self.process = None
        for name in "ab":
            subprocess.run(f"ip netns del flexgen-{name}", shell=True, stderr=subprocess.DEVNULL)


def measure(binary, work, hosts):
    """The profile of one thread, by as many measurements at the same time as there are hosts; the path of the first one's. Those that flexgen keeps are left as they are."""
    started = []
    for host in range(hosts):
        home = os.path.join(work, f"measured-{host + 1}-of-{hosts}")
        os.mkdir(home)
        with open(os.path.join(home, "profile.json"), "w") as file:
            started.append(subprocess.Popen([binary, "doctor", "--measure", "--threads", "1", "--disk-dir", home, "--json"], stdout=file, stderr=subprocess.DEVNULL,
                                            env=dict(os.environ, FLEXGEN_CACHE_DIR=home)))
    if any(process.wait() != 0 for process in started):
        sys.exit("doctor --measure failed")
    return os.path.join(work, f"measured-1-of-{hosts}", "profile.json")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--model", default="opt-125m")
    parser.add_argument("--cpu-memory", default="256MiB", help="of each rank")
    parser.add_argument("--num-prompts", type=int, default=32)
    parser.add_argument("--prompt-len", default="64")
    parser.add_argument("--gen-len", default="16")
    parser.add_argument("--micro-batch-size", default="8", help="'auto': the plan's")
    parser.add_argument("--num-micro-batches", default="4", help="'auto': the plan's")
    parser.add_argument("--hardware", nargs=2, metavar=("ALONE", "BOTH"), help="profiles of one thread of this machine; left out, they are measured now")
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("mpirun") or not shutil.which("tc"):
        print("skipped: needs root, iproute2 and openmpi-bin")
        sys.exit(77)
    with tempfile.TemporaryDirectory(prefix="flexgen_hosts_") as work:
        out, binary = os.path.join(work, "out.json"), os.path.realpath(arguments.binary)
        if arguments.hardware:
            hardware = [os.path.realpath(file) for file in arguments.hardware]
        else:
            hardware = [measure(binary, work, 1), measure(binary, work, 2)]
        command = [binary, "bench", "--model", arguments.model, "--num-prompts", str(arguments.num_prompts), "--prompt-len",
                   arguments.prompt_len, "--gen-len", arguments.gen_len, "--cpu-memory", arguments.cpu_memory, "--disk-dir", work, "--threads", "1", "--json", out]
        for flag, value in (("--micro-batch-size", arguments.micro_batch_size), ("--num-micro-batches", arguments.num_micro_batches)):
            command += [] if value == "auto" else [flag, value]

        def result(process, what):
            if process.returncode != 0:
                sys.exit(f"{what} failed:\n{process.stdout}{process.stderr}")
            with open(out) as file:
                return json.load(file)

        rows = []
        alone = result(subprocess.run(command + ["--hardware", hardware[0]], capture_output=True, text=True, timeout=arguments.timeout), "one rank")
        rows.append(("one rank, half the memory", alone))
        hosts = Hosts(work)
        try:
            for name, limits in LINKS:
                hosts.link(limits)
                rows.append((f"two ranks, {name}", result(hosts.mpirun(command + ["--hardware", hardware[1]], arguments.timeout), name)))
        finally:
            hosts.remove()
    print(f"{arguments.model}, {arguments.num_prompts} prompts of {arguments.prompt_len} tokens, {arguments.gen_len} generated, {arguments.cpu_memory} a rank, one thread a rank")
    print("links: " + ("tc netem" if hosts.netem else "a user-space link, as this kernel has no netem") + "; speed and delay in each direction")
    print(f"| {'':<30} | generated tokens/s | predicted tokens/s | measured / predicted | prompt tokens/s | seconds | block, groups | stages | sent MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, row in rows:
        sent = sum(lane["bytes"] for lane_name, lane in row["lanes"].items() if lane_name.endswith("network send")) / 2**20
        share = row["predicted"]["time_s"] / row["elapsed_s"]  # of speeds, as the tokens are the same
        policy = row["policy"]
        block = f"{policy['micro_batch_size']} x {policy['num_micro_batches']}, {policy.get('num_groups', 1)}"
        print(f"| {name:<30} | {row['generated_tokens_per_s']:.1f} | {row['generated_tokens_per_s'] / share:.1f} | {share:.2f} | {row['prompt_tokens_per_s']:.1f} | "
              f"{row['elapsed_s']:.2f} | {block} | {row.get('stages', '')} | {sent:.1f} |")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({name: row for name, row in rows}, file, indent=1)


main()
