#!/bin/sh
# The first process of a test machine: mounts, modules, then `agent doctor` and the tests, all told over the second
# serial port. Lines that begin with `===` are for xtask (boot.rs).
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
/bin/busybox mkdir -p /proc /sys /dev /run /root
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 none /sys/fs/cgroup
# Not a tmpfs: files of the tests may lie below it.
mkdir -p /tmp
chmod 1777 /tmp
exec >/dev/ttyS1 2>&1 </dev/null
stty -F /dev/ttyS1 raw
echo "=== release $(uname -r)"
while read -r module; do
    insmod "/modules/$module" || echo "cannot load $module"
done </modules/order
ip link set lo up
. /environment
echo "=== doctor"
/agent doctor --json || echo "doctor ended with $?"
echo "=== tests"
# shellcheck disable=SC2046
{ /tests $(cat /arguments); echo $? >/code; } | tee /output
code=$(cat /code)
# A test that fails beside others on emulated processors has to show that it fails alone.
# shellcheck disable=SC2046
set -- $(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' /output)
if [ "$code" = 101 ] && [ $# -gt 0 ] && [ $# -le 8 ]; then
    echo "=== again"
    RUST_TEST_THREADS=1 /tests --exact "$@"
    code=$?
fi
echo "=== exit $code"
sync
poweroff -f
