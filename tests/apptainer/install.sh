#!/bin/sh
# Installs a real Apptainer into DIR (default /opt/glm5bench-apptainer) for the tests. Debian 12 and 13 have no package, Debian unstable has.
# A separate apt configuration downloads it together with its C library, and does not change the configuration of the machine.
# Needs root to install the packages that make and mount SIF files.
set -eu
dir=${1:-/opt/glm5bench-apptainer}
[ -x "$dir/bin/apptainer" ] && exit 0
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends patchelf squashfs-tools squashfuse fuse3 uidmap >/dev/null 2>&1 ||
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends patchelf squashfs-tools squashfuse fuse3 uidmap >/dev/null; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/parts" "$work/debs" "$work/libs"
site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | sort -u | head -n 1)
for suite in trixie sid; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $suite main"
done >"$work/sources.list"
: >"$work/status"
cat >"$work/apt.conf" <<CONF
Dir::Etc::main "/dev/null"; Dir::Etc::parts "$work/parts"; Dir::Etc::preferencesparts "$work/parts";
Dir::Etc::sourcelist "$work/sources.list"; Dir::Etc::sourceparts "$work/parts";
Dir::State "$work"; Dir::State::lists "$work/lists"; Dir::State::status "$work/status"; Dir::Cache "$work/cache";
Acquire::Languages "none"; Acquire::Check-Valid-Until "false"; APT::Sandbox::User "";
CONF
export APT_CONFIG="$work/apt.conf"
cd "$work/debs"
apt-get update -qq
apt-get download -qq apptainer/sid libc6/trixie libseccomp2/trixie libsqlite3-0/trixie
new="$work/new"
mkdir -p "$new/lib" "$new/bin"
dpkg -x apptainer_*.deb "$new"
for deb in lib*.deb; do dpkg -x "$deb" "$work/libs"; done
cp -a "$work"/libs/usr/lib/x86_64-linux-gnu/lib*.so* "$work"/libs/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 "$new/lib/"
mv "$new/etc" "$new/usr/etc" # the prefix is moved: the command reads etc below usr/, the starter below usr/lib/
mkdir -p "$new/usr/var/lib/apptainer/mnt/session"
ln -s ../etc "$new/usr/lib/etc"
ln -s ../var "$new/usr/lib/var"
for program in "$new/usr/bin/apptainer" "$new/usr/lib/x86_64-linux-gnu/apptainer/bin/starter"; do
    patchelf --set-interpreter "$dir/lib/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$dir/lib" "$program"
done
ln -s ../usr/bin/apptainer "$new/bin/apptainer"
mkdir -p "$(dirname "$dir")"
rm -rf "$dir"
mv "$new" "$dir"
"$dir/bin/apptainer" --version >/dev/null
