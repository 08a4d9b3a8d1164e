#!/bin/sh
# Boot Linux in QEMU with the functions that are served at sockets, run a script in it, and print what that prints.
#
#   guest.sh VMLINUZ SCRIPT SOCK...
#
# Needs busybox (linked statically) and cpio. Variables: QEMU, the command of another QEMU, 10.1 or newer; ACCEL=tcg does
# without KVM.
set -eu
kernel=$1 script=$2
shift 2
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
mkdir -p "$folder/root/bin" "$folder/root/dev" "$folder/root/proc" "$folder/root/sys"
cp "$(command -v busybox)" "$folder/root/bin/busybox"
cp "$script" "$folder/root/script"
cat > "$folder/root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
stty -F /dev/ttyS1 raw
sh /script > /dev/ttyS1 2>&1
poweroff -f
INIT
chmod +x "$folder/root/init"
(cd "$folder/root" && find . | cpio --quiet -o -H newc | gzip -1) > "$folder/initrd"
count=$#
for path in "$@"; do
    set -- "$@" -device "{\"driver\": \"vfio-user-pci\", \"socket\": {\"type\": \"unix\", \"path\": \"$(realpath "$path")\"}}"
done
shift "$count"
${QEMU:-qemu-system-x86_64} -machine "q35,accel=${ACCEL:-kvm:tcg}" -nodefaults -no-user-config -display none \
    -object memory-backend-memfd,id=m,size=256M,share=on -numa node,memdev=m -m 256M \
    -kernel "$kernel" -initrd "$folder/initrd" -append "console=ttyS0 quiet panic=-1 no_timer_check" -no-reboot \
    -serial "file:$folder/console" -serial "file:$folder/output" "$@" 2> "$folder/errors" || cat "$folder/errors" >&2
[ -s "$folder/output" ] || cat "$folder/console" >&2
cat "$folder/output"
