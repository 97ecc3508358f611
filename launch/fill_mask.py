"""`bert-jax fill-mask`: prints the top predictions for each [MASK]."""

from pathlib import Path

from launch.load_model import load_model

BAR = 24


def print_predictions(model_path: Path, texts: list[str], top: int) -> None:
    """One block per text; one line per prediction with its probability and a bar."""
    model = load_model(model_path)
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise ValueError("no text: give sentences with [MASK] as arguments or on standard input")
    for text, slots in zip(texts, model.fill_mask()(texts, top_k=top)):
        print(text)
        for number, predictions in enumerate(slots, 1):
            if len(slots) > 1:
                print(f"  mask {number}")
            for item in predictions:
                print(f"  {item.probability:6.1%}  {item.token:<18} {'█' * round(item.probability * BAR)}")
        print()
