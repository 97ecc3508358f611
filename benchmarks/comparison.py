"""bert_jax beside transformers + torch, and choices of pretraining side by side: several seeds, the same held-out words for all.

    python benchmarks/comparison.py --train 'TEXT/train-*.txt' --valid TEXT/valid.txt --work runs/comparison
    python benchmarks/comparison.py --table                       # what is there so far, as markdown; needs neither jax nor torch

Text is of any of the kinds that `bert-jax prepare` reads; held-out documents must not be among the training documents. A tokenizer is
trained on the training text. Every arm has the same number of updates, and of real tokens in an update, as the others in its table:

  mini, tiny  BERT-mini and BERT-tiny by bert_jax and by transformers' BertForPreTraining with torch's AdamW: same initial weights, batches,
              schedule and number of threads, dropout in both; trained in turns of 20 steps, so that both meet the same load
  sequences   BERT-tiny without dropout, on full sentences without NSP (RoBERTa's recipe) and on segment pairs with NSP
  rate        the same, with 15 % and with 30 % of the tokens masked; measured at 15 %
  masks       the same, on little text seen many times: new masks in every epoch, and the masks of two epochs repeated

A seed stands for everything random: weights, order, pairs, masks, dropout. Work goes seed by seed, so that all tables fill together. A
finished arm and seed is a file in --results at once: the same command continues after an interruption, and does nothing when all is there.
A result made with other settings or other text is never mixed in; the command stops and says what differs.
"""

import argparse
import dataclasses
import importlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch shares the GPU

import comparison_table
from comparison_arms import ARMS, BUDGETS, GROUPS, LENGTH, TABLES, VIEWS, Budget

WARM_UP = 5  # steps that are not timed: the first compiles
TURN = 20
BASELINES = ("predictions", "unigram_accuracy", "unigram_loss", "nsp_majority")
SAME_MODEL = 1e-3  # by how much losses of the same weights may differ


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", metavar="TEXT", help="training text: files, directories or quoted globs")
    parser.add_argument("--valid", nargs="+", metavar="TEXT", help="held-out text")
    parser.add_argument("--work", type=Path, help="tokenizer and token stores are made here, once (about as large as the text)")
    results = Path(__file__).parent / "results"
    parser.add_argument("--results", type=Path, default=results, help="a JSON file per arm and seed (default: %(default)s)")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), help="only the arms of these")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... (default: %(default)s); more add to what is there")
    for name, budget in BUDGETS.items():
        arms = " or ".join(table for table, entry in TABLES.items() if ARMS[entry.arms[0]].size == name)
        parser.add_argument(f"--{name}-steps", type=int, default=budget.steps, help=f"updates of each arm of {arms} (default: %(default)s)")
        parser.add_argument(f"--{name}-peak", type=float, default=budget.peak, help="their peak learning rate (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="cores for either framework (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="gpu: one, that jax and torch both see")
    parser.add_argument("--table", action="store_true", help="print the tables of what is in --results, and do nothing else")
    arguments = parser.parse_args()
    if not arguments.table:
        missing = [f"--{name}" for name in ("train", "valid", "work") if not getattr(arguments, name)]
        if missing:
            parser.error(f"{', '.join(missing)} must be given, or --table to print what is in {arguments.results}")
        run(arguments)
    print(comparison_table.render(arguments.results))
    return 0


def run(arguments: argparse.Namespace) -> None:
    """Trains what has no result yet."""
    limit_threads(arguments.threads, arguments.device)
    from comparison_data import held_out, prepare_texts

    texts = prepare_texts(arguments.train, arguments.valid, arguments.work)
    budgets = {
        name: dataclasses.replace(budget, steps=getattr(arguments, f"{name}_steps"), peak=getattr(arguments, f"{name}_peak"))
        for name, budget in BUDGETS.items()
    }
    views = {name: held_out(texts, name) for name in VIEWS}
    wanted = {arm for table in arguments.tables for arm in TABLES[table].arms}
    for seed in range(arguments.seeds):
        for group in GROUPS:
            settings = {name: settings_of(texts, name, budgets[ARMS[name].size]) for name in group if name in wanted}
            if settings and not all(done(arguments.results, name, seed, settings[name]) for name in settings):
                train_group(texts, settings, budgets[ARMS[group[0]].size], seed, views, arguments)


def limit_threads(threads: int, device: str) -> None:
    """Before jax counts the cores."""
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(cores):
        raise SystemExit(f"--threads {threads} does not fit; this process may use {len(cores)} cores")
    os.sched_setaffinity(0, cores[:threads])
    import jax
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.disable_progress_bar()
    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    else:
        jax.config.update("jax_default_matmul_precision", "highest")  # torch's default; jax's would be TF32
        if not torch.cuda.is_available() or jax.default_backend() != "gpu":
            raise SystemExit(f"--device gpu needs a GPU that both see; torch: {torch.cuda.is_available()}, jax: {jax.default_backend()}")


def settings_of(texts, name: str, budget: Budget) -> dict:
    """All that decides an arm's result but the seed, as JSON."""
    from comparison_data import training_batches
    from comparison_trainers import recipe_of

    arm, recipe = ARMS[name], recipe_of(budget)
    model = importlib.import_module(f"configs.{budget.config}").get_config().model.to_dict()
    model |= {"vocab_size": texts.stores["train"].vocab_size, "initializer_range": budget.initializer_range, "nsp": arm.nsp}
    training = training_batches(texts, arm, budget, seed=0)
    return {
        "framework": arm.framework, "sequences": arm.sequences, "rate": arm.rate, "text": arm.text, "mask_draws": arm.mask_draws,
        "model": model, "length": LENGTH, "steps": budget.steps, "peak": budget.peak,
        "warmup_steps": budget.warmup_steps, "betas": [recipe.b1, recipe.b2], "eps": recipe.eps, "weight_decay": recipe.weight_decay,
        "clip_norm": recipe.clip_norm, "target_tokens": budget.tokens, "rows": training.rows, "real_tokens": round(training.tokens, 1),
        "epochs": round(training.epochs, 3), "text_fingerprints": {part: store.fingerprint for part, store in texts.stores.items()},
    }  # fmt: skip


def done(directory: Path, name: str, seed: int, settings: dict) -> bool:
    """Whether there is this result. SystemExit if there is one of other settings."""
    path = comparison_table.result_path(directory, name, seed)
    if not path.is_file():
        return False
    if changed := comparison_table.differences(json.loads(path.read_text(encoding="utf-8"))["settings"], settings):
        raise SystemExit(f"{path} was made with another {', '.join(changed)}; give another --results, or remove it to make it anew")
    return True


def train_group(texts, settings: dict[str, dict], budget: Budget, seed: int, views: dict, arguments: argparse.Namespace) -> None:
    """Trains the arms of a group in turns on the same batches, and writes their results."""
    import jax
    import torch
    import transformers
    from comparison_data import training_batches
    from comparison_trainers import Start, initial_params

    first = next(iter(settings))
    section = settings[first]["model"]
    training = training_batches(texts, ARMS[first], budget, seed)
    with tempfile.TemporaryDirectory() as scratch:
        start = Start(section, initial_params(section, seed), texts.tokenizer_dir, Path(scratch))
        device = "cuda" if arguments.device == "gpu" else "cpu"
        trainers = {name: start.trainer(ARMS[name].framework, budget, seed, device) for name in settings}
        check_same_model(trainers, views[ARMS[first].sequences].batches[:1])
        losses, seconds = train(trainers, training.batch, budget.steps, f"seed {seed}, {' + '.join(settings)}")
        where = torch.cuda.get_device_name() if arguments.device == "gpu" else f"{arguments.threads} core{'s' * (arguments.threads > 1)}"
        for name, trainer in trainers.items():
            arm = ARMS[name]
            kinds = [arm.sequences] if len(trainers) > 1 else list(views)
            result = {
                "arm": name, "seed": seed, "settings": settings[name],
                "held_out": {kind: trainer.evaluate(views[kind].batches) for kind in kinds},
                "baselines": {kind: {field: getattr(views[kind], field) for field in BASELINES} for kind in kinds},
                "training_losses": twentieths(losses[name]), "seconds": summary(seconds[name]) | {"device": where},
                "versions": {"jax": jax.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
            }  # fmt: skip
            if not comparison_table.is_finite(result):
                raise SystemExit(f"{name}, seed {seed}: held-out metrics are not finite ({result['held_out']}); lower --{arm.size}-peak")
            comparison_table.write_result(arguments.results, result)
            for kind, score in result["held_out"].items():
                print(f"{name}, seed {seed}, {kind}: masked accuracy {score['mlm_accuracy']:.4f}, loss {score['mlm_loss']:.4f}", flush=True)


def check_same_model(trainers: dict, batches: list) -> None:
    """SystemExit unless all begin as the same model: the same loss of held-out rows."""
    losses = {name: trainer.evaluate(batches)["mlm_loss"] for name, trainer in trainers.items()}
    if max(losses.values()) - min(losses.values()) > SAME_MODEL:
        raise SystemExit(f"the models differ before training: {losses}")


def train(trainers: dict, batch_of, steps: int, title: str) -> tuple[dict[str, list[float]], dict[str, dict[str, list[float]]]]:
    """(loss of every step, seconds of every step by clock) for each trainer; they take turns."""
    from tqdm import tqdm

    clocks = {"wall": time.perf_counter, "cpu": time.process_time}
    losses = {name: [] for name in trainers}
    seconds = {name: {clock: [] for clock in clocks} for name in trainers}
    with tqdm(total=steps * len(trainers), desc=title, unit="step", mininterval=0.5 if sys.stderr.isatty() else 30) as bar:
        for begin in range(0, steps, TURN):
            turn = [batch_of(step) for step in range(begin, min(begin + TURN, steps))]
            for name, trainer in trainers.items():
                for batch in turn:
                    began = {clock: now() for clock, now in clocks.items()}
                    losses[name].append(trainer.train(batch))
                    for clock, now in clocks.items():
                        seconds[name][clock].append(now() - began[clock])
                    bar.update()
            bar.set_postfix({name: f"{values[-1]:.3f}" for name, values in losses.items()}, refresh=False)
    return losses, seconds


def summary(seconds: dict[str, list[float]]) -> dict:
    """Of all steps but the first WARM_UP."""
    numbers = {"steps": len(seconds["wall"]) - WARM_UP, "excluded": WARM_UP, "turn": TURN}
    for clock, spent in seconds.items():
        numbers |= {f"{clock}_total": sum(spent[WARM_UP:]), f"{clock}_median_step": statistics.median(spent[WARM_UP:])}
    return numbers


def twentieths(losses: list[float]) -> list[float]:
    """The mean training loss in each twentieth of the run."""
    edges = [len(losses) * part // 20 for part in range(21)]
    return [round(statistics.fmean(losses[begin:end]), 4) for begin, end in itertools.pairwise(edges) if end > begin]


if __name__ == "__main__":
    sys.exit(main())
