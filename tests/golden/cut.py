#!/usr/bin/env python3
"""Makes recordings/03a-lifecycle.jsonl from 03-cli-lifecycle.jsonl: the part without stats, pause, update, diff,
commit, cp, export and healthchecks, which scenarios/03a-lifecycle.sh repeats. Each CLI command is one connection."""
import json, pathlib

HERE = pathlib.Path(__file__).parent / "recordings"
LEFT_OUT = {8, 12, 13, 14, 15, 19, 20, 21, 22, 23, 24, 25, 37}

with open(HERE / "03-cli-lifecycle.jsonl") as old, open(HERE / "03a-lifecycle.jsonl", "w") as new:
    for line in old:
        row = json.loads(line)
        if row["conn"] in LEFT_OUT:
            continue
        body = row.get("response", {}).get("body")
        if isinstance(body, dict) and "State" in body:
            body["State"].pop("Health", None)
            body["Config"].pop("Healthcheck", None)
        new.write(json.dumps(row, separators=(",", ":")) + "\n")
