"""`bert-jax fill-mask`: prints the top predictions for each mask."""

from pathlib import Path

from launch.load_model import load_model

BAR = 24
BATCH = 32  # texts at a time, so that a file of any length fits in memory


def print_predictions(model_path: Path, texts: list[str], top: int) -> None:
    """One block per text; one line per prediction with its probability and a bar."""
    model = load_model(model_path)
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise ValueError("no text: give sentences with a mask as arguments or on standard input")
    vocabulary = model.blueprint.spec.encoder.embedding.vocab_size
    if not 1 <= top <= vocabulary:
        raise ValueError(f"--top={top} does not fit; give 1 to {vocabulary}")
    fill_mask = model.fill_mask()
    for first in range(0, len(texts), BATCH):
        chunk = texts[first : first + BATCH]
        show(chunk, fill_mask(chunk, top_k=top))


def show(texts: list[str], predictions_of: list) -> None:
    for text, slots in zip(texts, predictions_of):
        print(text)
        for number, predictions in enumerate(slots, 1):
            if len(slots) > 1:
                print(f"  mask {number}")
            for item in predictions:
                print(f"  {item.probability:6.1%}  {item.token:<18} {'█' * round(item.probability * BAR)}")
        print()
