#!/usr/bin/env bash
# autosam-run on good and bad arguments: check_tool.sh AUTOSAM_RUN DATA_FOLDER
set -euo pipefail
run="$1"; bundle="$2/threshold.autosam"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
printf '\012\062\063\310' > "$work/in.raw"   # 10 50 51 200 as bytes
printf '\000\000\001\001' > "$work/wanted.raw"

# refuse EXPRESSION ARGUMENTS...: exit code 2 and one line on stderr that matches.
refuse() {
  local expression="$1" code=0
  shift
  "$run" "$@" >"$work/out" 2>"$work/err" || code=$?
  if [[ $code != 2 || $(wc -l <"$work/err") != 1 ]] || ! grep -qE "$expression" "$work/err"; then
    echo "autosam-run $*: code $code, expected 2 and '$expression'; got:" >&2
    cat "$work/err" >&2
    exit 1
  fi
}

"$run" --help | grep -q 'usage: autosam-run BUNDLE INPUT OUTPUT'
"$run" "$bundle" --info | grep -q 'label 1     #e69f00 body'
"$run" "$bundle" --selftest | grep -q 'passed 2 of 2 golden cases'
"$run" "$bundle" "$work/in.raw" "$work/out.raw" --shape 1,2,2 --dtype uint8 2>"$work/err"
cmp "$work/out.raw" "$work/wanted.raw"
grep -q '1 of 1 slices' "$work/err"

# .npy in and out: golden slices give golden labels, byte for byte with the header.
golden="$bundle/golden/case_0"
"$run" "$bundle" "$golden.slices.npy" "$work/labels.npy" --logits "$work/logits.npy" --batch 1 --quiet
cmp <(tail -c 108 "$work/labels.npy") <(tail -c 108 "$golden.labels.npy")
cmp <(tail -c 1296 "$work/logits.npy") <(tail -c 1296 "$golden.logits.npy")
if command -v python3 >/dev/null && python3 -c 'import numpy' 2>/dev/null; then
  python3 -c "import numpy, sys; a = numpy.load(sys.argv[1]); assert a.shape == (2, 6, 9) and a.dtype == 'uint8'" \
    "$work/labels.npy"
fi
[[ -z "$(find "$work" -name '*.part')" ]]

refuse 'got 0 arguments; expected BUNDLE INPUT OUTPUT'
refuse 'got 2 arguments' "$bundle" "$work/in.raw"
refuse "unknown option '--gpu'" "$bundle" --gpu
refuse '\-\-shape needs a value' "$bundle" a b --shape
refuse "\-\-threads; got 'two'; expected a whole number" "$bundle" a b --threads two
refuse "\-\-shape; got ''; expected" "$bundle" "$work/in.raw" "$work/x" --shape 1,,2
refuse "no file at '$work/none'" "$bundle" "$work/none" "$work/x"
refuse 'has no header; say --shape' "$bundle" "$work/in.raw" "$work/x"
refuse 'got 4 bytes; expected 16' "$bundle" "$work/in.raw" "$work/x" --shape 1,2,2
refuse 'got 0; expected 1 or more' "$bundle" "$work/in.raw" "$work/x" --shape 0,2,2
refuse 'got 4 bytes; expected' "$bundle" "$work/in.raw" "$work/x" --shape 2147483647,2147483647,2147483647
refuse "\-\-dtype; got 'float64'" "$bundle" "$work/in.raw" "$work/x" --shape 1,2,2 --dtype float64
refuse "no bundle at '$work/nowhere'" "$work/nowhere" --info
refuse 'max_batch; got -2' "$bundle" "$work/in.raw" "$work/x" --shape 1,2,2 --dtype uint8 --batch -2 --quiet
refuse "cannot write '$work/no/folder'" "$bundle" "$work/in.raw" "$work/no/folder" --shape 1,2,2 --dtype uint8 --quiet
if [[ -e /dev/full ]]; then
  ln -s /dev/full "$work/full.part"
  refuse "cannot write '$work/full'; free space" "$bundle" "$work/in.raw" "$work/full" --shape 1,2,2 --dtype uint8 --quiet
fi
cp "$work/in.raw" "$work/bad.npy"
refuse "'$work/bad.npy' cannot be read; got no .npy file" "$bundle" "$work/bad.npy" "$work/x"
