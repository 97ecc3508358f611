"""Speed of encoding beside the `tokenizers` library's own, one thread: python benchmarks/encoding.py TEXT TOKENIZER_DIR..."""

import os
import sys
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parents[1]))

from data_pipeline import tokenizers  # noqa: E402
from data_pipeline.tokenization import sentences

CHARACTERS = 4_000_000


def main() -> None:
    text = Path(sys.argv[1]).read_text()[:CHARACTERS]
    lines = [line for line in text.split("\n") if line]
    split = [sentence for line in lines for sentence in sentences.split(line)]
    for directory in sys.argv[2:]:
        tokenizer = tokenizers.load(directory)
        work = {
            "empty cache": lambda: tokenizer.encode_sentences(split),
            "full cache": lambda: tokenizer.encode_sentences(split),
            "library": lambda: tokenizer.hf.encode_batch(lines, add_special_tokens=False),
        }
        speeds = []
        for name, encode in work.items():
            began = time.process_time()
            encode()
            speeds.append(f"{name} {len(text.encode()) / 1e6 / (time.process_time() - began):.1f} MB/s")
        print(f"{tokenizer.kind} of {tokenizer.vocab_size:,}: {', '.join(speeds)}")


if __name__ == "__main__":
    main()
