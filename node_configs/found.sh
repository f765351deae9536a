#!/bin/sh
# Found the consortium of compose.yaml: four directories, each with a key of its own, and the
# network.json that all of them share. It runs once and ends; nothing of it serves anybody.
#
# In the world, each institution runs its own `swarm init`, sends the others nothing but card.json,
# and computes network.json for itself: docs/operations.md.

set -eu
NODES=${NODES:-/nodes}

for name in cleveland budapest zurich-basel long-beach; do
    if [ ! -e "$NODES/$name/card.json" ]; then
        swarm init "$NODES/$name" --name "$name" --unattended \
            --listen /ip4/0.0.0.0/tcp/4001 --announce "/dns4/$name/tcp/4001"
    fi
done

first="$NODES/cleveland/network.json"
if [ ! -e "$first" ]; then
    swarm network found "$NODES/cleveland/card.json" "$NODES/budapest/card.json" \
        "$NODES/zurich-basel/card.json" "$NODES/long-beach/card.json" \
        --time "$(date +%s)" --output "$first"
fi
for name in budapest zurich-basel long-beach; do
    cp "$first" "$NODES/$name/network.json"
done
