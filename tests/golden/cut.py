#!/usr/bin/env python3
"""Makes recordings/05a-images.jsonl from 05-cli-images.jsonl: the part without what needs a registry, which
scenarios/05a-images.sh repeats. Each CLI command is one connection."""
import json, pathlib

HERE = pathlib.Path(__file__).parent / "recordings"
LEFT_OUT = {*range(1, 10), 16, 17, 18, 21}

with open(HERE / "05-cli-images.jsonl") as old, open(HERE / "05a-images.jsonl", "w") as new:
    for line in old:
        row = json.loads(line)
        if row["conn"] not in LEFT_OUT:
            new.write(json.dumps(row, separators=(",", ":")) + "\n")
