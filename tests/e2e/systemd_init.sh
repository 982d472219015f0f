#!/bin/bash
# Runs as the first process of its own PID, mount, UTS, IPC, network and cgroup namespaces: lays a throw-away overlay over
# this machine's /, puts rtvla below /opt/rtvla as an installation would, and becomes systemd.
# Nothing of the machine changes: what is written goes to memory, /proc/sys and /sys are read-only, its own units do not start.
set -eu
work=$1 venv=$2 package=$3 base_python=$4 model=$5 move_python=$6
mount -t tmpfs tmpfs "$work/layer"
mkdir -p "$work"/layer/{up,scratch,venv,venv-scratch}
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/layer/up,workdir=$work/layer/scratch" "$work/root"
root=$work/root
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
    touch "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root"/dev/{pts,shm}
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"

# rtvla as installed: its environment, and its python too if that lives where a service sees nothing
mkdir -p "$root/opt/rtvla/venv" "$root/opt/rtvla/python" "$root/opt/rtvla/site"
chmod 755 "$root/opt" "$root/opt/rtvla" "$root/opt/rtvla"/*
mount -t overlay overlay -o "lowerdir=$venv,upperdir=$work/layer/venv,workdir=$work/layer/venv-scratch" "$root/opt/rtvla/venv"
installed=$(echo "$root"/opt/rtvla/venv/lib/python*/site-packages)
rm -f "$installed"/__editable__*rtvla*
cp -a "$package" "$installed/"
chmod -R a+rX "$installed/rtvla"
if [ "$move_python" = move ]; then
    mount --bind "$base_python" "$root/opt/rtvla/python"
    sed -i "s|$base_python|/opt/rtvla/python|" "$root/opt/rtvla/venv/pyvenv.cfg"
    for link in python python3; do
        ln -sfn "/opt/rtvla/python/bin/$(basename "$(readlink -f "$venv/bin/python")")" "$root/opt/rtvla/venv/bin/$link"
    done
fi
cp -r "$model" "$root/opt/rtvla/site/model"
chmod -R a+rX "$root/opt/rtvla/site"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"

# Stand-ins, empty: the defaults of a service pull in sysinit and basic, which would start the machine's own units.
rm -rf "$root"/etc/systemd/system "$root"/lib/systemd/system/{sysinit,basic,multi-user,network-online}.target.wants
mkdir -p "$root/etc/systemd/system"
for target in sysinit basic network-online; do
    printf '[Unit]\nDefaultDependencies=no\n' >"$root/etc/systemd/system/$target.target"
done
printf '[Unit]\nDefaultDependencies=no\nWants=systemd-journald.service\nAfter=systemd-journald.service\n' \
    >"$root/etc/systemd/system/ci.target"
ip link set lo up
cd "$root"
mkdir -p .machine
pivot_root . .machine
umount -l /.machine
echo "becoming systemd"
exec env -i container=rtvla-test PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
    /lib/systemd/systemd --system --unit=ci.target --log-target=journal --log-level=info --show-status=0
