#!/usr/bin/env bash
# Put ONNX Runtime's C header into a folder, out of Debian's package; nothing is installed.
#
#     cpp/tools/fetch-ort-headers.sh [FOLDER]        default: cpp/build/ort-headers
#
# Needs apt and dpkg. Elsewhere, set ONNXRUNTIME_ROOT to an unpacked release of ONNX Runtime.
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
target="${1:-$here/build/ort-headers}"
# Older Debian releases do not have the package; a header needs nothing of the system it came with.
suite=trixie

if [[ -n "$(find "$target" -name onnxruntime_c_api.h -print -quit 2>/dev/null)" ]]; then
  exit 0
fi
mirror="$(awk '/^URIs:/ {print $2; exit} /^deb / {for (i = 2; i <= NF; i++) if ($i ~ /^http/) {print $i; exit}}' \
  /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null || true)"
if [[ -z "$mirror" ]]; then
  echo "fetch-ort-headers: no Debian source is configured; set ONNXRUNTIME_ROOT instead" >&2
  exit 2
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{state/lists/partial,cache/archives/partial}
touch "$work/status"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] $mirror $suite main" > "$work/sources.list"
cat > "$work/apt.conf" <<CONF
Dir::State "$work/state"; Dir::State::status "$work/status"; Dir::Cache "$work/cache";
Dir::Etc::sourcelist "$work/sources.list"; Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null"; APT::Sandbox::User "root";
CONF
cd "$work"
export APT_CONFIG="$work/apt.conf"
apt-get update -qq
apt-get download -qq libonnxruntime-dev
mkdir -p "$target"
dpkg -x libonnxruntime-dev_*.deb "$work/package"
cp -r "$work/package/usr/include" "$work/package/usr/share/doc" "$target/"
