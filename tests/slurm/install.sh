#!/bin/sh
# What the cluster of cluster.py is made of, from Debian's packages. Needs root; their services are not started.
set -eu
packages="slurmctld slurmd slurm-client slurmdbd slurm-wlm-mysql-plugin munge mariadb-server"
dpkg -s $packages >/dev/null 2>&1 && exit 0
# the packages would start services of their own on the machine's ports: a policy-rc.d that says no is the way that Debian has for it
if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
