#!/usr/bin/env bash
# Prints a RayJob for each slice of a run: bash docker/kubernetes/slices.sh 8 | kubectl apply -f -
# Each is rayjob.yaml, with your changes, under a name of its own and with slice=i/8, so that each slice has a Ray
# cluster of its own. When all are done: kubectl replace --force -f docker/kubernetes/finish.yaml
set -euo pipefail

if [[ ! "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: slices.sh N, for N slices" >&2
  exit 2
fi
for ((i = 0; i < $1; i++)); do
  awk -v slice="slice=$i/$1" -v suffix="-$i-of-$1" '
    !named && /^  name: / { $0 = $0 suffix; named = 1 }
    !sliced && /^ +trimline annotate / { sub(/trimline annotate /, "&" slice " "); sliced = 1 }
    { text = text $0 "\n" }
    END {
      if (named && sliced) { printf "%s---\n", text; exit }
      print "slices.sh: rayjob.yaml has no metadata.name or no line \"trimline annotate ...\"" >"/dev/stderr"
      exit 1
    }' "$(dirname "$0")/rayjob.yaml"
done
