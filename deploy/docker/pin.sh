#!/bin/sh
# Fill in the digests of all images that are named in deploy/, as their registries have them now:
#
#   sh deploy/docker/pin.sh [IMAGE]
#
# IMAGE is the service's own, as you have pushed it (registry.example/signal-manager:1.0): the Kubernetes manifest names it
# from then on. Needs docker with buildx, but no engine. Nothing is changed unless every registry has answered. Run it
# again to move to what the tags mean by then; `git diff` shows what has changed.
set -eu

cd "$(dirname "$0")/.."

pinned() { # NAME:TAG, with or without a digest that it had
    tagged=${1%%@*}
    found=$(docker buildx imagetools inspect "$tagged" --format '{{json .Manifest.Digest}}' |
        grep -o 'sha256:[0-9a-f]\{64\}' | head -n 1)
    [ -n "$found" ] || { echo "no digest of $tagged: its registry did not answer, or does not have it" >&2; return 1; }
    echo "$tagged@$found"
}

named() { # what a line of FILE names behind MARK
    sed -n "s|^.*$2\([^}[:space:]]*\).*$|\1|p" "$1"
}

python=$(pinned "$(named docker/Dockerfile 'ARG PYTHON_IMAGE=')")
nats=$(pinned "$(named docker/compose.yaml 'NATS_IMAGE:-')")
firestore=$(pinned "$(named docker/compose.yaml 'FIRESTORE_IMAGE:-')")
own=$([ $# -eq 0 ] || pinned "$1")

fill() { # FILE MARK IMAGE
    sed "s|\($2\)[^}[:space:]]*|\1$3|" "$1" >"$1.new"
    cat "$1.new" >"$1"
    rm "$1.new"
    echo "deploy/$1: $3"
}

fill docker/Dockerfile 'ARG PYTHON_IMAGE=' "$python"
fill docker/compose.yaml 'NATS_IMAGE:-' "$nats"
fill docker/compose.yaml 'FIRESTORE_IMAGE:-' "$firestore"
[ -z "$own" ] || fill kubernetes/signal-manager.yaml 'image: ' "$own"
