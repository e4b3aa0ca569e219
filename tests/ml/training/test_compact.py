import torch

from ml.training.compact import mean_weights


def test_weights_are_averaged_and_counters_are_not() -> None:
    """A batch norm's mean is a weight, the number of batches it has seen is not."""
    one = {"conv.weight": torch.tensor([1.0, 3.0]), "norm.num_batches_tracked": torch.tensor(7)}
    other = {"conv.weight": torch.tensor([3.0, 5.0]), "norm.num_batches_tracked": torch.tensor(4)}
    found = mean_weights(one, other)
    assert torch.equal(found["conv.weight"], torch.tensor([2.0, 4.0]))
    assert found["norm.num_batches_tracked"] == 7
