#!/usr/bin/env bash
# Installs the real peers of the tests with apt-get where this runs as root, and says what is missing where it does not.
# With package names as arguments it installs just those.
#
# Debian starts a service when it installs one; the tests start their own on free loopback ports. So while apt-get works,
# policy-rc.d (the place where Debian asks whether a service may start) says no. A service that already ran goes on
# running, and a policy-rc.d that was already there stays.
set -euo pipefail

missing_peers() {
    has() { command -v "$1" > /dev/null || [ -x "/usr/sbin/$1" ]; }
    has dcmsend || echo dcmtk  # not storescu: pynetdicom installs one too
    has Orthanc || echo orthanc
    compgen -G '/usr/share/orthanc/plugins/libOrthancDicomWeb.so*' > /dev/null || echo orthanc-dicomweb
    has dciodvfy || echo dicom3tools
    has redis-server || echo redis-server
    has rabbitmq-server || echo rabbitmq-server
    compgen -G '/usr/lib/postgresql/*/bin/initdb' > /dev/null || has initdb || echo postgresql
}

install_without_starting() {
    local guard=/usr/sbin/policy-rc.d
    if [ ! -e "$guard" ]; then
        trap 'rm -f '"$guard" EXIT
        printf '#!/bin/sh\n# The tests start their own peers.\nexit 101\n' > "$guard"
        chmod +x "$guard"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || echo "apt-get update failed; going on with the lists there are" >&2
    apt-get install -y -qq --no-install-recommends "$@" > /dev/null
}

if [ $# -gt 0 ]; then packages="$*"; else packages="$(missing_peers | xargs)"; fi
[ -n "$packages" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
    echo "Missing: $packages. As root on Debian: apt-get install --no-install-recommends $packages" >&2
    exit 1
fi
echo "Installing with apt-get: $packages"
# shellcheck disable=SC2086  # a list of package names
install_without_starting $packages || { echo "apt-get could not install: $packages" >&2; exit 1; }
