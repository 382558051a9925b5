"""Prepare a corpus in one of the ways that `prepare_data.py` compares: one process per run, started by it.

    python benchmarks/preparation_variants.py '{"way": "ours", "workers": 2, "encoder": "tiktoken", …}'

Writes shards to the request's `output`, and what it measured of itself to `measured.json` beside them. Its times begin
behind the imports and end with the last shard; the CPU time of all its processes is measured from outside.
"""

import json
import multiprocessing
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from tokenization import gpt2_bpe
from tokenization.mul_facts import END_OF_TEXT_ID

SHARD_TOKENS = 100_000_000


def main(request: dict) -> None:
    way = WAYS[request["way"]]
    output = Path(request["output"])
    output.mkdir(parents=True)
    work = way(request, output)  # imports, and what takes the same time for any text
    measured = {"cpu_seconds_before": process_seconds(), "started": time.monotonic()}
    measured |= work() or {}
    measured |= {
        "finished": time.monotonic(),
        "parent_cpu_seconds": process_seconds() - measured["cpu_seconds_before"],
    }
    (output / "measured.json").write_text(json.dumps(measured), encoding="utf-8")


def ours(request: dict, output: Path) -> Callable[[], None]:
    """Prepare with this project, by what `training/prepare_data.py` calls: all arms in one pass."""
    from training.data.corpus import prepare_corpus
    from training.data.manifest import tokenizer_identity

    args = recipe(request, output)
    for condition in args.conditions:
        tokenizer_identity(condition, args.injection_mode, args.operators)  # once per preparation, however long
    return lambda: prepare_corpus(args, print, request["workers"], request["encoder"], "lines") and None


def recipe(request: dict, output: Path):
    from training.data.corpus_recipe import CorpusArguments

    return CorpusArguments(
        sources=[{"path": request["text"]}],
        output_dir=str(output / "corpus"),
        conditions=request["conditions"],
        validation_fraction=request["validation_fraction"],
        minimum_dose=0.0,  # prose alone holds too few facts to train on, which is not the question here
        decontaminate=[{"path": request["test_items"], "name": "test items"}] if request.get("test_items") else [],
    )


def injection(request: dict, output: Path) -> Callable[[], dict]:
    """Time a worker's pieces of the mul_tokens arm, and once more what it spends in them on facts.

    Each piece is made by `PieceMaker` as in a worker; then the facts of the same batches are looked for, counted and
    encoded again, beside the plain encoding that every document gets.
    """
    from tokenization import count_facts, may_hold_facts
    from training.data.pieces import BATCH_BYTES, PieceMaker
    from training.data.plan import Plan

    def batches(plan, piece) -> Iterator[list[tuple[str, bytes]]]:
        batch, held = [], 0
        for text, encoded in plan.sources[piece.source].documents_in(piece.span, Counter()):
            batch.append((text, encoded))
            held += len(encoded)
            if held >= BATCH_BYTES:
                yield batch
                batch, held = [], 0
        if batch:
            yield batch

    def work() -> dict:
        plan = Plan.make(recipe(request, output))
        for condition in request["conditions"]:
            (plan.output_dir / condition).mkdir()
        maker = PieceMaker(plan, request["conditions"], request["encoder"])
        encoder = maker.encoders["mul_tokens"]
        pieces = []
        maker.make(next(plan.pieces(0)))  # the first one also pays for the engine
        for piece in plan.pieces(0):
            start = time.process_time()
            record = maker.make(piece)
            total = time.process_time() - start
            documents, with_facts, seconds = 0, 0, 0.0
            for batch in batches(plan, piece):
                texts, encoded = zip(*batch, strict=True)
                start = time.process_time()
                candidates = np.flatnonzero(may_hold_facts(encoded)).tolist()
                found = [number for number in candidates if count_facts(texts[number]).any()]
                for number in found:
                    encoder.encode(texts[number])
                seconds += time.process_time() - start
                documents += len(texts)
                with_facts += len(found)
            assert documents == record["documents_read"]
            pieces.append(
                {
                    "documents": documents,
                    "documents_with_facts": with_facts,
                    "cpu_seconds": total,
                    "cpu_seconds_of_injection": seconds,
                }
            )
        return {"pieces": pieces}

    return work


def nanogpt_loop(request: dict, output: Path) -> Callable[[], dict]:
    """Prepare as build-nanogpt's fineweb.py does, written anew from its description.

    A pool of processes tokenizes one document at a time, and the parent copies the ids into a shard that it has
    allocated before, with a bar.
    """
    import tiktoken
    from tiktoken_ext.openai_public import r50k_pat_str
    from tqdm import tqdm

    global _encoding  # the workers inherit it
    # What tiktoken.get_encoding("gpt2") gives, without its download.
    _encoding = tiktoken.Encoding(
        "gpt2",
        pat_str=r50k_pat_str,
        mergeable_ranks=gpt2_bpe.ranks(),
        special_tokens={"<|endoftext|>": END_OF_TEXT_ID},
    )
    load = loader(request, output)

    def work() -> dict:
        rows, seconds = load()
        shard = Shard(output, request["text_bytes"])
        with multiprocessing.get_context("fork").Pool(request["workers"]) as pool, tqdm(unit="token") as bar:
            for tokens in pool.imap(tokenize, rows, chunksize=16):
                shard.append(tokens)
                bar.update(len(tokens))
            pool.close()
            pool.join()  # so that their time is counted
        shard.save()
        return {"load_cpu_seconds": seconds}

    return work


def tokenize(row: dict) -> np.ndarray:
    """Return a document's ids behind an end of text, (tokens,) uint16."""
    ids = np.array([END_OF_TEXT_ID, *_encoding.encode_ordinary(row["text"])])
    if (ids < 0).any() or (ids >= 2**16).any():
        raise ValueError("an id does not fit into uint16")
    return ids.astype(np.uint16)


def datasets_map(request: dict, output: Path) -> Callable[[], dict]:
    """Prepare by `datasets.map` with the saved tokenizer of one arm, and write its rows into shards."""
    from transformers import AutoTokenizer

    load = loader(request, output)

    def work() -> dict:
        tokenizer = AutoTokenizer.from_pretrained(request["tokenizer"])
        rows, seconds = load()
        rows = rows.map(
            lambda batch: tokenizer(batch["text"]),
            batched=True,
            num_proc=request["workers"],
            remove_columns=rows.column_names,
        )
        shard = Shard(output, request["text_bytes"])
        for batch in rows.with_format("numpy").iter(1000):
            for ids in batch["input_ids"]:
                shard.append(np.concatenate([[END_OF_TEXT_ID], ids]).astype(np.uint16))
        shard.save()
        return {"load_cpu_seconds": seconds}

    return work


def loader(request: dict, output: Path) -> Callable[[], tuple[Iterable, float]]:
    """Return what opens the text as a data set, and says how much CPU time that took: it makes an Arrow copy."""
    from datasets import load_dataset

    def load() -> tuple[Iterable, float]:
        start = process_seconds()
        files = sorted(map(str, Path(request["text"]).glob("*.parquet")))
        rows = load_dataset("parquet", data_files=files, split="train", cache_dir=str(output / "cache"))
        return rows, process_seconds() - start

    return load


class Shard:
    """A shard that is allocated once and saved whenever it is full; smaller than theirs where the text is small."""

    def __init__(self, folder: Path, text_bytes: int):
        self.folder, self.used, self.number = folder, 0, 0
        self.tokens = np.empty(min(SHARD_TOKENS, text_bytes // 16 + 1), np.uint16)  # about four shards

    def append(self, tokens: np.ndarray) -> None:
        while self.used + len(tokens) > len(self.tokens):
            fits = len(self.tokens) - self.used
            self.tokens[self.used :] = tokens[:fits]
            self.used, tokens = len(self.tokens), tokens[fits:]
            self.save()
        self.tokens[self.used : self.used + len(tokens)] = tokens
        self.used += len(tokens)

    def save(self) -> None:
        np.save(self.folder / f"shard-{self.number:06d}.tokens.npy", self.tokens[: self.used])
        self.number, self.used = self.number + 1, 0


def process_seconds() -> float:
    """Return the CPU time of this process alone, in seconds, its threads included."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


WAYS = {"ours": ours, "injection": injection, "nanogpt_loop": nanogpt_loop, "datasets_map": datasets_map}

if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
