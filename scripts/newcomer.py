#!/usr/bin/env python3
"""Test the first steps of a new user: run commands in a clone on a bare Debian 12 with only git, make and python3.

    scripts/newcomer.py [--keep] [--user] [COMMAND …]      by default: `make release`, again, `make test`

The bare Debian is a directory made by debootstrap, entered with separate mounts, processes, host name and network.
It only gets this machine's apt, pip and certificate settings, as on a new machine of a company. Needs root, iproute2
and iptables.
"""

import argparse
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".cache" / "newcomer"
DEBIAN = HOME / "debian"  # the bare system, kept as a template
MACHINE = HOME / "machine"  # a copy for one run, deleted afterwards
PACKAGES = ("git", "make", "python3")
SUITE = "bookworm"

SPACE = "newcomer"
OUTSIDE, INSIDE, NETWORK = "10.213.77.1", "10.213.77.2", "10.213.77.0/30"
SETTINGS = re.compile(r"(PIP|UV)_.*|.*_proxy|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE", re.IGNORECASE)
APT = ("sources.list", "sources.list.d", "trusted.gpg", "trusted.gpg.d", "keyrings", "auth.conf", "auth.conf.d")

# Runs as the first process in the new namespaces: makes the directory the root and enters it.
ENTER = """
set -eu
root=$1; shift
mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs tmpfs run && mkdir -p run/lock && chmod 1777 run/lock
while read -r path; do mount --bind -o ro "$path" ".$path"; done < .mounts
mkdir -p .outside
pivot_root . .outside
umount -l /.outside
hostname newcomer
exec "$@"
"""

# The commands begin with a clone; `timed` records seconds and exit status for the table at the end.
TYPED = """
set -u
cd ~
worst=0
timed() {
    begin=$(date +%s%N); "$@"; code=$?; tenths=$((($(date +%s%N) - begin) / 100000000))
    printf '%6d.%d s   exit %d   %s\\n' $((tenths / 10)) $((tenths % 10)) $code "$*" >>~/times
    [ $code -eq 0 ] || worst=$code
}
if which docker dockerd pip pip3 curl docker-registry; then echo "this is not a bare machine"; exit 1; fi
timed git clone --quiet --branch main /var/tmp/flagrelease.bundle flagrelease
cd flagrelease || exit 1
"""


def sh(*argv: str, check: bool = True) -> str:
    """Run argv and return its output; exits if it fails."""
    result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if check and result.returncode:
        sys.exit(f"{shlex.join(argv)} ended with {result.returncode}:\n{result.stderr[-2000:]}")
    return result.stdout.strip()


def bare_debian() -> None:
    """Make the bare Debian once; each run copies it."""
    if DEBIAN.exists():
        return
    if shutil.which("debootstrap") is None:
        sys.exit("debootstrap is missing: apt-get install debootstrap")
    sites = sh("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", f"Codename: {SUITE}")
    partial = HOME / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    include = f"--include={','.join(PACKAGES)}"
    sh("debootstrap", "--variant=minbase", include, SUITE, str(partial), sites.splitlines()[0])
    for leftover in (*partial.glob("var/cache/apt/archives/*.deb"), *partial.glob("var/lib/apt/lists/*_*")):
        leftover.unlink()
    partial.rename(DEBIAN)


def hand_on(path: Path, root: Path) -> None:
    """Copy a file or folder of this machine to the same path under `root`."""
    target = root / path.relative_to("/")
    if path.is_dir():
        shutil.copytree(path, target, dirs_exist_ok=True)
    elif path.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


def configure(root: Path) -> None:
    """Copy the settings of package sources and trusted certificates: apt, pip, name servers, CA."""
    (root / "etc/apt/sources.list").unlink(missing_ok=True)
    for name in APT:
        hand_on(Path("/etc/apt") / name, root)
    acquire = [line for line in sh("apt-config", "dump").splitlines() if line.startswith("Acquire::")]
    (root / "etc/apt/apt.conf.d/90settings").write_text("\n".join(acquire) + "\n")
    pip = sh(sys.executable, "-m", "pip", "config", "debug", check=False)
    for config in re.findall(r"^\s*(/\S+), exists: True", pip, re.MULTILINE):
        hand_on(Path(config).parent if Path(config).parent.name == "pip" else Path(config), root)
    for path in ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt", "/usr/local/share/ca-certificates"):
        hand_on(Path(path), root)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 newcomer\n")
    # Package folders named in pip's settings are mounted at the same paths, read-only.
    named = re.findall(r"(?:file://)?(/[^\s'\"]+)", sh(sys.executable, "-m", "pip", "config", "list", check=False))
    folders = {p.parent if p.name == "simple" else p for p in map(Path, named) if p.is_dir() and p != Path("/")}
    for folder in folders:
        (root / folder.relative_to("/")).mkdir(parents=True, exist_ok=True)
    (root / ".mounts").write_text("".join(f"{folder}\n" for folder in sorted(folders)))


@contextlib.contextmanager
def network() -> Iterator[None]:
    """A network namespace behind this machine's address, so that ports and Docker's bridge do not collide."""
    rules = [
        ["-t", "nat", "{}", "POSTROUTING", "-s", NETWORK, "-j", "MASQUERADE"],
        ["{}", "FORWARD", "-s", NETWORK, "-j", "ACCEPT"],
        ["{}", "FORWARD", "-d", NETWORK, "-j", "ACCEPT"],
    ]

    def remove() -> None:
        sh("ip", "netns", "delete", SPACE, check=False)
        sh("ip", "link", "delete", "newcomer0", check=False)
        for rule in rules:
            sh("iptables", *[part.format("-D") for part in rule], check=False)

    remove()
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    if forwarding.read_text().strip() != "1":
        forwarding.write_text("1")
    sh("ip", "netns", "add", SPACE)
    try:
        sh("ip", "link", "add", "newcomer0", "type", "veth", "peer", "name", "eth0", "netns", SPACE)
        sh("ip", "address", "add", f"{OUTSIDE}/30", "dev", "newcomer0")
        sh("ip", "link", "set", "newcomer0", "up")
        inside = ("ip", "-netns", SPACE)
        sh(*inside, "address", "add", f"{INSIDE}/30", "dev", "eth0")
        sh(*inside, "link", "set", "eth0", "up")
        sh(*inside, "link", "set", "lo", "up")
        sh(*inside, "route", "add", "default", "via", OUTSIDE)
        for rule in rules:
            sh("iptables", *[part.format("-I") for part in rule])
        yield
    finally:
        remove()


def newcomer_script(commands: Sequence[str], user: bool) -> str:
    """The shell script of the user: clone, the commands, and a table of seconds at the end."""
    lines = [TYPED]
    for command in commands:
        lines += [f"echo; echo {shlex.quote('$ ' + command)}", f"timed {command}"]
    lines += ["make --silent down >/dev/null", "echo; echo 'took'; cat ~/times", "exit $worst"]
    script = "\n".join(lines)
    if not user:
        return script
    setup = (
        "apt-get -qq update && apt-get -qqy install --no-install-recommends sudo >/dev/null 2>&1; "
        "useradd -m -s /bin/bash newcomer; echo 'newcomer ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/newcomer; "
        "cp -r ~/.config /home/newcomer/ 2>/dev/null; chown -R newcomer: /home/newcomer; "
    )
    return f"{setup} exec sudo --preserve-env -H -u newcomer bash -c {shlex.quote(script)}"


def main() -> int:
    """Run the commands. Returns the exit status of the last command that failed, or 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="keep the machine's directory for inspection")
    parser.add_argument("--user", action="store_true", help="run as an ordinary user with sudo")
    parser.add_argument("commands", nargs="*", default=["make release", "make release", "make test"])
    arguments = parser.parse_args()
    if os.geteuid():
        sys.exit("creating namespaces needs root: sudo scripts/newcomer.py")
    # On SIGTERM, still remove the machine and its network.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begin = time.monotonic()
    bare_debian()
    if MACHINE.exists():
        shutil.rmtree(MACHINE)
    sh("cp", "-a", str(DEBIAN), str(MACHINE))
    configure(MACHINE)
    sh("git", "-C", str(ROOT), "bundle", "create", "-q", str(MACHINE / "var/tmp/flagrelease.bundle"), "HEAD", "main")
    print(f"bare Debian {SUITE} with {', '.join(PACKAGES)}: {time.monotonic() - begin:.0f} s", flush=True)
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environment = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8"}
    environment |= {name: value for name, value in os.environ.items() if SETTINGS.fullmatch(name)}
    script = newcomer_script(arguments.commands, arguments.user)
    spaces = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
    enter = ["sh", "-c", ENTER, "enter", str(MACHINE), "bash", "-c", script]
    command = ["nsenter", f"--net=/run/netns/{SPACE}", *spaces, *enter]
    with network():
        code = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode
    if not arguments.keep:
        shutil.rmtree(MACHINE, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
