"""Compare this project's corpus preparation with build-nanogpt's loop and with `datasets.map`, interleaved in one run.

    python benchmarks/prepare_data.py --prose valid.txt test.txt --math train.jsonl test.jsonl
    python benchmarks/prepare_data.py --prose valid.txt --megabytes 200 --rounds 5 --encoders gigatoken --workers 1 2 4

`--prose` are WikiText files, cut into articles at their titles, and `--math` JSONL files with `question` and `answer`.
Both are repeated to their size as they are; an encoder that remembers words, as gigatoken does, is flattered by that.
Every variant reads the same Parquet files (zstd, row groups of 1000) and writes uint16 shards:

- ours: `prepare_corpus`, both arms in one pass, with the splits, counts and hashes that it always makes;
- ours, one arm: the same with the baseline alone, as the peers have it;
- ours, decontaminated: both arms, without the documents that share words with `--test_items`;
- build-nanogpt's loop: tiktoken on one document at a time over a process pool, the parent fills the shards;
- datasets.map: batches through the saved tokenizer, on `num_proc` processes, then rows into shards.

A run is a process of its own, and its CPU time that of all its processes behind the imports. From that and from the
wall time the median of the same on a few short documents is taken away: what remains is what more text costs. Memory
is the peak resident size of the largest worker. In each round every variant runs once, in an order that rotates, and a
ratio compares two runs of the same round. Variants that should give the same ids are held to it. Linux only.

Prints tables and a projection to 10 billion tokens (again: `preparation_report.py FILE`), and writes every measured
number as JSON, with the device and versions.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from preparation_report import LOOP, MAP, STARTUP, print_report

from tokenization import MulFactTokenizer
from training.core.console import processor_name
from training.core.provenance import environment
from training.data.reading import jsonl_rows, text_documents

ARTICLE = r"^ = [^=].* = $"  # a section's title has more equals signs
ROWS_PER_GROUP = 1000
SHORT_DOCUMENTS = 20  # per file of the text that is next to nothing
SHORT_FRACTION = 0.5  # of them held out, so that both splits get some
BOTH_ARMS = ("baseline", "mul_tokens")
# One core per process: a pool of threads inside each would blur what a worker costs.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Variant:
    """One way to prepare a corpus.

    gives: the arms whose ids are to be those of the other variants, and where they are below the output folder.
    """

    name: str
    workers: int
    gives: dict[str, str]
    request: dict


@dataclass(frozen=True)
class Text:
    """A folder of Parquet files."""

    name: str
    folder: Path
    bytes: int
    documents: int
    validation_fraction: float


def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        startup, *texts = write_texts(options, scratch)
        variants = list_variants(options, scratch)
        load_before = os.getloadavg()
        runs, shares = [], []
        for number in range(options.rounds):
            first = number * len(variants) // options.rounds
            for variant in variants[first:] + variants[:first]:
                # Math with the fewest workers only, for it says little more with several.
                of_variant = [startup, *texts] if variant.workers == min(options.workers) else [startup, texts[0]]
                found = [run(variant, text, scratch) for text in of_variant]
                runs += [{"round": number, **entry} for entry in found]
                cells = (f"{entry['text']} {entry['cpu_seconds']:.2f}" for entry in found)
                print(
                    f"round {number + 1}  {variant.name}, workers {variant.workers}: CPU seconds",
                    *cells,
                    sep="  ",
                    flush=True,
                )
            for encoder in options.encoders if "ours" in options.ways else []:
                shares += [{"round": number, **injection_share(encoder, text, scratch)} for text in texts]

    check_ids(runs)
    report = {
        "texts": [asdict(text) for text in (startup, *texts)],
        "runs": runs,
        "injection": shares,
        "environment": describe_environment(),
        "settings": vars(options) | {"load_average": [load_before, os.getloadavg()]},
    }
    print_report(report)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"\nwrote {options.json}")


def write_texts(options: argparse.Namespace, scratch: Path) -> list[Text]:
    """Write the text that is next to nothing, the prose and the math, in that order."""
    files = 2 * max(options.workers)
    prose = [text for file in options.prose for text in text_documents(file, ARTICLE) if text.strip()]
    math = [f"{row['question']}\n{row['answer']}" for file in options.math for _, row in jsonl_rows(file)]
    if not prose:
        raise SystemExit(f"no article in {', '.join(map(str, options.prose))}")
    if options.test_items:
        (scratch / "test_items").mkdir()
        items = [" ".join(strings_in(row)) for file in options.test_items for _, row in jsonl_rows(file)]
        pq.write_table(pa.table({"text": items}), scratch / "test_items" / "items.parquet")
    size, fraction = int(options.megabytes * 1e6), options.validation_fraction
    short = [f"Document number {number} is short." for number in range(SHORT_DOCUMENTS * files // 2)]
    texts = [
        write_text(STARTUP, short, sum(map(len, short)), files // 2, scratch, SHORT_FRACTION),
        write_text("prose", prose, size, files, scratch, fraction),
    ]
    return texts + ([write_text("math", math, size // 4, files, scratch, fraction)] if math else [])


def write_text(name: str, documents: list[str], size: int, files: int, scratch: Path, fraction: float) -> Text:
    """Write documents, from the first again when they end, until they have `size` bytes."""
    repeated, held = [], 0
    for document in cycle(documents):
        if held >= size:
            break
        repeated.append(document)
        held += len(document.encode())
    folder = scratch / name
    folder.mkdir()
    for number, part in enumerate(np.array_split(np.arange(len(repeated)), files)):
        table = pa.table({"text": [repeated[index] for index in part]})
        # A dictionary would hold each repeated document once, and reading it would cost next to nothing.
        options = {"compression": "zstd", "row_group_size": ROWS_PER_GROUP, "use_dictionary": False}
        pq.write_table(table, folder / f"{number:03d}.parquet", **options)
    return Text(name, folder, held, len(repeated), fraction)


def strings_in(value) -> list[str]:
    """Return the strings in a JSON value, however deep."""
    if isinstance(value, dict | list):
        return [text for part in (value.values() if isinstance(value, dict) else value) for text in strings_in(part)]
    return [value] if isinstance(value, str) else []


def list_variants(options: argparse.Namespace, scratch: Path) -> list[Variant]:
    test_items = str(scratch / "test_items")
    tokenizers = {condition: str(scratch / "tokenizers" / condition) for condition in BOTH_ARMS}
    for condition, folder in tokenizers.items():
        MulFactTokenizer.build(condition).save_pretrained(folder)
    found = []
    for workers in options.workers:
        for encoder in options.encoders:
            for way, name, arms, more in (
                ("ours", f"ours, {encoder}", BOTH_ARMS, {}),
                ("one_arm", f"ours, {encoder}, one arm", BOTH_ARMS[:1], {}),
                ("decontaminated", f"ours, {encoder}, decontaminated", BOTH_ARMS, {"test_items": test_items}),
            ):
                request = {"way": "ours", "encoder": encoder, "conditions": arms, **more}
                gives = {} if more else {arm: f"corpus/{arm}" for arm in arms}
                found.append((way, Variant(name, workers, gives, request)))
        found.append(("nanogpt_loop", Variant(LOOP, workers, {"baseline": "."}, {"way": "nanogpt_loop"})))
        for condition, name in zip(BOTH_ARMS, (MAP, "datasets.map mul_tokens"), strict=True):
            request = {"way": "datasets_map", "tokenizer": tokenizers[condition]}
            found.append(("datasets_map", Variant(name, workers, {condition: "."}, request)))
    wanted = set(options.ways) - (set() if options.test_items else {"decontaminated"})
    return [variant for way, variant in found if way in wanted]


def run(variant: Variant, text: Text, scratch: Path) -> dict:
    """Let one variant prepare one text in a process of its own, and return what that took and gave."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        output = Path(folder) / "out"
        measured = measure(variant.request | {"workers": variant.workers}, text, output)
        ids = {condition: sum_of_ids(output / place) for condition, place in variant.gives.items()}
    return {"variant": variant.name, "workers": variant.workers, "text": text.name, **measured, "ids": ids}


def injection_share(encoder: str, text: Text, scratch: Path) -> dict:
    """Measure which share of a worker's CPU time one arm's injection is, piece by piece."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        request = {"way": "injection", "encoder": encoder, "conditions": BOTH_ARMS[1:]}
        measured = measure(request, text, Path(folder) / "out")
    for piece in measured["pieces"]:
        rest = piece["cpu_seconds"] - piece["cpu_seconds_of_injection"]
        piece["cost"] = piece["cpu_seconds_of_injection"] / rest
    return {"encoder": encoder, "text": text.name, "pieces": measured["pieces"]}


def measure(request: dict, text: Text, output: Path) -> dict:
    """Run `preparation_variants.py` and return its own figures, the CPU time of its tree and the peaks of memory."""
    program = Path(__file__).with_name("preparation_variants.py")
    request = request | {"text": str(text.folder), "text_bytes": text.bytes, "output": str(output)}
    request["validation_fraction"] = text.validation_fraction
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, program, json.dumps(request)]
        environ = {**os.environ, **ONE_THREAD, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environ)
        usage, peaks = watch(process)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{request['way']} failed on {text.name}:\n{log.read().decode(errors='replace')[-4000:]}")
    measured = json.loads((output / "measured.json").read_text(encoding="utf-8"))
    parent = peaks.pop(process.pid)
    return {
        "cpu_seconds": usage.ru_utime + usage.ru_stime - measured.pop("cpu_seconds_before"),
        "wall_seconds": measured.pop("finished") - measured.pop("started"),
        "parent_peak_mb": parent,
        "worker_peak_mb": max(peaks.values(), default=parent),
        **measured,
    }


def watch(process: subprocess.Popen) -> tuple:
    """Wait for a process; return the resources of its tree, and the peak resident MB of each process in it."""
    peaks: dict[int, float] = {}
    while True:
        for pid in tree(process.pid):
            # The kernel keeps the peak of a program; the last look counts, for a process that has just been started
            # still shows its parent's. Only a rise in its last moment goes unseen.
            peaks[pid] = peak_resident_mb(pid) or peaks.get(pid, 0.0)
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage, peaks
        time.sleep(0.05)


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):  # it has just ended
            for thread in os.listdir(f"/proc/{parent}/task"):
                found += map(int, Path(f"/proc/{parent}/task/{thread}/children").read_text().split())
    return found


def peak_resident_mb(pid: int) -> float:
    # Not ru_maxrss, which a new program inherits from the process that started it.
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def sum_of_ids(folder: Path) -> list[int]:
    """Return how many ids the shards in a folder hold and their sum: equal for equal corpora, in any order."""
    shards = [np.load(file, mmap_mode="r") for file in folder.rglob("*.tokens.npy")]
    return [sum(map(len, shards)), sum(int(shard.sum(dtype=np.int64)) for shard in shards)]


def check_ids(runs: list[dict]) -> None:
    """Refuse variants that give other ids than another one for the same arm of the same text."""
    expected: dict[tuple[str, str], tuple[list[int], str]] = {}
    for entry in runs:
        for condition, ids in entry["ids"].items():
            first, where = expected.setdefault((entry["text"], condition), (ids, entry["variant"]))
            if ids != first:
                raise SystemExit(
                    f"'{entry['variant']}' gives {ids[0]:,} ids of {condition} on {entry['text']} with the sum "
                    f"{ids[1]:,}, but '{where}' {first[0]:,} with {first[1]:,}; to compare their speed means nothing"
                )


def describe_environment() -> dict:
    """Return what `run.json` says about a run, and the versions that count here."""
    found = environment(processor_name())
    for package in ("gigatoken", "pyarrow"):
        try:
            found["versions"][package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found["versions"][package] = None
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prose", type=Path, nargs="+", required=True, help="WikiText files")
    parser.add_argument("--math", type=Path, nargs="+", default=[], help="JSONL files with question and answer")
    parser.add_argument("--test_items", type=Path, nargs="+", default=[], help="JSONL files to decontaminate against")
    parser.add_argument("--megabytes", type=float, default=60, help="of prose; a quarter of it of math")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--encoders", nargs="+", default=["tiktoken", "gigatoken"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    ways = ("ours", "one_arm", "decontaminated", "nanogpt_loop", "datasets_map")
    parser.add_argument("--ways", nargs="+", choices=ways, default=ways, help="measure these variants only")
    parser.add_argument("--validation_fraction", type=float, default=0.02, help="of the documents, held out by ours")
    parser.add_argument("--scratch", type=Path, help="where to put texts and shards; default: the system's choice")
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/prepare_data.json"))
    main(parser.parse_args())
