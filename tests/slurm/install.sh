#!/bin/sh
# Installs Debian's packages for the cluster of cluster.py. Needs root. Their services are not started.
set -eu
packages="slurmctld slurmd slurm-client slurmdbd slurm-wlm-mysql-plugin munge mariadb-server"
dpkg -s $packages >/dev/null 2>&1 && exit 0
# the packages would start their services on the machine's ports; on Debian, a policy-rc.d that exits with 101 prevents this
if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
