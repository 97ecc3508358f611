"""Static masking by `bert-jax record --epochs`: every sequence that often, each time with other masks, written without TensorFlow."""

import subprocess
import sys

import numpy as np
import pytest

from bert_jax.recorded import RecordedBatches
from launch.cli import main
from tests.launch.conftest import SMALL


def test_epochs_hold_every_sequence_with_different_masks_and_need_no_tensorflow(prepared, tmp_path):
    code = "import sys; sys.modules['tensorflow'] = None\nfrom launch.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["record", *SMALL, f"--config.data.path={prepared.store}", "--config.batch_size=64", "--epochs=3"]
    arguments.append(f"--output={tmp_path / 'recorded'}")
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    recorded = RecordedBatches(tmp_path / "recorded")
    batches = list(recorded.batches(0, recorded.num_batches))
    fields = {name: np.concatenate([batch[name] for batch in batches]) for name in ("example_ids", "mlm_positions", "mlm_weights")}
    count = fields["example_ids"].max() + 1
    assert count > 500 and recorded.num_batches == -(-3 * count // 64)
    epochs = np.arange(3)[:, None] * count
    order = np.argsort(fields["example_ids"][: 3 * count].reshape(3, count), axis=1) + epochs
    np.testing.assert_array_equal(fields["example_ids"][order], np.tile(np.arange(count), (3, 1)))
    positions = fields["mlm_positions"][order]
    several = fields["mlm_weights"][order[0]].sum(axis=1) >= 3
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (positions[one] == positions[other]).all(axis=1)[several].mean() < 0.02


@pytest.mark.parametrize(
    "number, message", [("--batches=0", "nothing to record in 0"), ("--epochs=-1", "nothing to record in -"), ("--batches=1 --phase=1", "has 1 phase(s), 0 to 0")]
)
def test_nothing_to_record(prepared, tmp_path, capsys, number, message):
    assert main(["record", *SMALL, f"--config.data.path={prepared.store}", *number.split(), f"--output={tmp_path / 'recorded'}"]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "recorded").exists()
