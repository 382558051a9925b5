"""The folder of an experiment as the programs would leave it, with differences that are known."""

import functools
import json
import random

import numpy as np
from safetensors.numpy import save_file

from tokenization.mul_facts import FACT_IDS, FACTS, VOCABULARY_SIZE
from training.data.synthetic_probes import probe_set

SETS = ("mul_table", "mul_multidigit", "addition")
# By how many of the 100 products each arm is better than the baseline, over seeds on average.
EFFECTS = {"baseline": 0, "mul_tokens": 12, "opaque": 1, "random": 0}
CONDITIONS = {"opaque": "opaque_token", "random": "random_fact"}
# What is added seed by seed, and in other orders arm by arm. It sums to 0 over the first 2, 4 and 6 seeds, so that
# effects are means exactly.
WIGGLE = (1, -1, 2, -2, 1, -1)
ORDERS = ((0, 1, 2, 3, 4, 5), (2, 3, 4, 5, 0, 1), (5, 4, 1, 0, 3, 2))
STEPS = {"pretrain": 400, "sft_math": 120}
WIDTH = 8

PRIMARY = {
    "name": "products of two digits and one, exact",
    "stage": "sft_math",
    "eval": "probes",
    "task": "probes",
    "where": {"set": "mul_multidigit"},
    "value": "exact",
    "margin": 0.02,
    "unit": "accuracy",
}
SECONDARY = [
    {**PRIMARY, "name": "products of two digits, exact", "where": {"set": "mul_table"}, "cluster": "cluster"},
    {**PRIMARY, "name": "sums, exact", "where": {"set": "addition"}},
]
EXPLORATORY = [
    {
        "name": "text of the held-out documents",
        "stage": "pretrain",
        "eval": "text",
        "task": "text",
        "value": "nats",
        "per": "bytes",
        "higher_is_better": False,
        "unit": "bits per byte",
    },
    {
        "name": "GSM8K, strict",
        "stage": "sft_math",
        "eval": "probes",
        "task": "gsm8k",
        "value": "replies.0.strict_right",
        "unit": "accuracy",
    },
]
DECLARED = {
    "name": "small_study",
    "scale": "small",
    "question": "Does one token per multiplication fact help with arithmetic?",
    "stages": [
        {"name": "pretrain", "program": "pretrain", "recipe": "recipes/small/{condition}.yaml"},
        {"name": "sft_math", "program": "sft", "recipe": "recipes/small/sft_math.yaml", "start": "pretrain"},
    ],
    "evals": [
        {"name": "probes", "recipe": "recipes/small/probes.yaml", "stages": ["sft_math"]},
        {"name": "text", "recipe": "recipes/small/text.yaml", "stages": ["pretrain"]},
    ],
    "primary": PRIMARY,
    "secondary": SECONDARY,
    "exploratory": EXPLORATORY,
    "alpha": 0.05,
    "declared_at": "2026-11-23T20:00:00+00:00",
    "recipes_sha256": {"recipes/small/corpus.yaml": "5e" * 32},
    "commit": "1234567890abcdef1234567890abcdef12345678",
    "device": "cpu, 2 cores",
    "deviations": ["Seed 3 was run on another day."],
    "invariants": {
        "before": [{"name": "vocabulary", "passed": True, "detail": "50,349 in all arms"}],
        "after": [{"name": "initial weights, seed 0", "passed": True, "detail": "aaaa in all arms"}],
    },
}


def write_experiment(folder, *, effects=EFFECTS, seeds=6, arms=None, weights=True, **declared):
    """Write an experiment and return its folder.

    effects: of each arm, in points on the primary endpoint. arms: what is declared of them beyond their condition.
    declared: keys of `experiment.json` in place of those of `DECLARED`.
    """
    named = {arm: {"condition": CONDITIONS.get(arm, arm)} | (arms or {}).get(arm, {}) for arm in effects}
    baseline, treatment, *others = effects
    pairs = [[baseline, treatment], *([other, treatment] for other in others)]
    facts = {**DECLARED, "seeds": list(range(seeds)), "arms": named, "comparisons": pairs, **declared}
    _write(folder / "experiment.json", json.dumps(facts))
    ledger = []
    for place, arm in enumerate(effects):
        for seed in range(seeds):
            own = WIGGLE[ORDERS[(place - 1) % len(ORDERS)][seed]] if place else 0
            for stage in STEPS:
                run = folder / f"{arm}-s{seed}" / stage
                _write_run(run, named[arm], seed, stage, weights)
                ledger.append(_attempt(f"{arm}-s{seed}/{stage}"))
                evaluation = "probes" if stage == "sft_math" else "text"
                for step in (STEPS[stage] // 2, STEPS[stage]):
                    progress = step / STEPS[stage]
                    folder_of_step = run / "evals" / evaluation / f"checkpoint-{step}"
                    _write_evaluation(folder_of_step, arm, effects[arm], seed, own, progress)
                ledger.append(_attempt(f"{arm}-s{seed}/{stage}/evals/{evaluation}"))
    _write(folder / "ledger.jsonl", _lines(ledger))
    return folder


def rows_of(folder, run, task, step=STEPS["sft_math"], evaluation="probes"):
    """Return a file of items and its rows, to be changed and written back with `write_rows`."""
    file = folder / run / "evals" / evaluation / f"checkpoint-{step}" / f"{task}.jsonl"
    return file, [json.loads(line) for line in file.read_text().splitlines()]


def write_rows(file, rows):
    file.write_text(_lines(rows))


def write_corpus_manifest(folder, key, condition, dose):
    """Write what the report reads of a corpus inside the experiment's folder."""
    manifest = {"dose": dose, "splits": {"train": {"facts": int(dose * 10**6), "tokens": 10**6}}}
    _write(folder / "corpus" / key / condition / "manifest.json", json.dumps(manifest))


def edit_json(file, change):
    """Change a JSON file by a function of its value."""
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def _write_run(run, arm, seed, stage, weights):
    rng = np.random.default_rng([seed, len(stage), len(arm["condition"])])
    tokenised = {}
    if arm["condition"] == "half_facts" and stage == "pretrain":
        tokenised = {"tokenised_facts": sorted(random.Random(seed).sample([fact.name for fact in FACTS], 22))}
    start = {"device": "AMD EPYC, 1 threads", "git_commit": DECLARED["commit"], "python": "3.11.7",
             "versions": {"torch": "2.13.0", "numpy": "2.4.6"}}  # fmt: skip
    facts = {
        "recipe": {
            "learning_rate": 0.001,
            "seed": seed,
            "max_steps": STEPS[stage],
            "output_dir": run.name,
            "corpus_dir": f"elsewhere/corpus/{arm.get('dose', 'all')}",
        },
        "condition": arm["condition"],
        "parameters": 1000,
        "initial_weights_sha256": f"{seed:064x}" if stage == "pretrain" else f"{arm['condition']}{seed}",
        "document_order_sha256": f"{seed + 100:064x}",
        "processed_tokens": STEPS[stage] * 1024,
        **tokenised,
        "starts": [start],
    }
    _write(run / "run.json", json.dumps(facts))
    metrics = []
    for step in range(20, STEPS[stage] + 1, 20):
        loss = 3 + 5 * 0.99**step + rng.normal(0, 0.05)
        metrics.append({"step": step, "loss": loss, "tokens": step * 1024, "flops": step * 10**9})
        if step % 100 == 0 or step == STEPS[stage]:
            metrics.append(
                {"step": step, "eval_bits_per_byte": loss / 2.4, "eval_bits_per_byte_without_facts": loss / 2.5}
            )
    metrics.append({"step": STEPS[stage], "train_runtime": 100.0 + seed})
    _write(run / "metrics.jsonl", _lines(metrics))
    if weights and stage == "pretrain":
        rows = np.zeros((VOCABULARY_SIZE, WIDTH), np.float32)
        rows[FACT_IDS.start :] = rng.normal(0, 0.02, (len(FACTS), WIDTH))
        if arm["condition"] == "mul_tokens":
            direction = rng.normal(0, 1, WIDTH)
            rows[FACT_IDS.start :] += 0.05 * np.outer(np.log([fact.product for fact in FACTS]), direction)
        checkpoint = run / f"checkpoint-{STEPS[stage]}"
        checkpoint.mkdir()
        save_file({"transformer.wte.weight": rows}, checkpoint / "model.safetensors")


def _write_evaluation(folder, arm, effect, seed, own, progress):
    settings, results = {}, {}
    if folder.parent.name == "text":
        rng = np.random.default_rng(7)
        sizes = rng.integers(200, 900, 40).tolist()
        nats = [size * (0.9 + 0.3 * (1 - progress) + 0.005 * WIGGLE[seed] + 0.001 * own) for size in sizes]
        rows = [
            {"index": index, "opening": f"document {index}", "bytes": size, "nats": of_one}
            for index, (size, of_one) in enumerate(zip(sizes, nats, strict=True))
        ]
        _write(folder / "text.jsonl", _lines(rows))
        results["text"] = {"bits_per_byte": {"value": sum(nats) / np.log(2) / sum(sizes)}}
        settings["text"] = {"documents": len(rows)}
    else:
        # Seeds differ in all arms alike, and a little in each arm by itself.
        level = 40 + 3 * WIGGLE[seed] + effect + own
        rows = _probe_rows(arm, seed, {"mul_multidigit": int(level * progress), "addition": 50 + WIGGLE[seed] + own})
        _write(folder / "probes.jsonl", _lines(rows))
        results["probes"] = {
            "sets": {
                name: {
                    "exact": {"value": 0.5, "n": sum(row["set"] == name for row in rows), "floor": 0.11},
                    "answered_by_fact": {"value": 0.2 + 0.02 * seed if arm == "mul_tokens" else 0.0},
                }
                for name in SETS
            }
        }
        _write(folder / "gsm8k.jsonl", _lines(_solutions(arm, seed)))
        uses = {"emitted_per_response": 0.3, "emitted_per_eligible": 0.9, "emitted_right_in_context": 0.5,
                "emitted_gratuitous": 0.25}  # fmt: skip
        results["gsm8k"] = {
            "strict_accuracy": {"value": 0.02, "n": 60, "floor": 0.0265},
            "fact_use": {key: {"value": (value + 0.01 * seed) * (arm == "mul_tokens")} for key, value in uses.items()},
        }
        settings |= {"probes": {"sets": list(SETS), "batch_size": 64}, "gsm8k": {"mode": "worked", "batch_size": 64}}
    subject = {"condition": arm, "parameters": 1000}
    _write(folder / "results.json", json.dumps({"subject": subject, "settings": settings, "results": results}))


_probes = functools.cache(probe_set)


def _probe_rows(arm, seed, right):
    """Return rows of which so many are right; which they are depends on the seed, so that arms of a seed are alike."""
    rows = []
    for name in SETS:
        probes = _probes(name)
        order = list(range(len(probes)))
        random.Random(f"{name}{seed}").shuffle(order)
        easy = {place for place in range(len(probes)) if name == "mul_table" and probes[place].answer <= 30}
        chosen = easy if name == "mul_table" else set(order[: right[name]])
        for place, probe in enumerate(probes):
            is_right = place in chosen or (
                name == "mul_table" and arm in ("mul_tokens", "half_facts") and order[place] < 20
            )
            rows.append(
                {"index": len(rows), "set": name, "prompt": probe.prompt, "answer": probe.answer,
                 "cluster": probe.cluster, "tags": probe.tags, "exact": is_right, "exact_in_digits": is_right,
                 "answered_by_fact": False, "likelihood": {"right": is_right, "nll": 1.0 if is_right else 2.0}}
            )  # fmt: skip
    return rows


def _solutions(arm, seed):
    drawn = random.Random(f"solutions{arm}{seed}")
    return [
        {"index": index, "question": f"Problem {index}?", "gold": index,
         "replies": [{"text": "", "strict_right": drawn.random() < 0.03}]}
        for index in range(60)
    ]  # fmt: skip


def _attempt(step, status="finished", **more):
    return {"step": step, "status": status, "command": ["accelerate", "launch", f"training/{step.split('/')[-1]}.py"],
            "began": "2026-11-23T20:00:00+00:00", "seconds": 30.0, "returncode": 0, "attempt": 1,
            "device": "cpu, 1 core", **more}  # fmt: skip


def _lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
