"""Checkpoints of networks that have learnt nothing, for what comes after training."""

from pathlib import Path

import torch

from train import checkpoint, config
from train.deepfilter import DeepFilter


def write_checkpoint(path: Path, settings: config.Config) -> Path:
    """A checkpoint as `train` leaves it, of a network with random weights, strong enough that its state matters."""
    torch.manual_seed(0)
    model = checkpoint.network(settings)
    full = model.full if isinstance(model, DeepFilter) else model
    with torch.no_grad():
        for module in model.modules():
            for weight in module.parameters() if isinstance(module, torch.nn.LSTM) else ():
                weight.mul_(1.25)
        full.mean.uniform_(-6, -2)
        full.std.uniform_(0.5, 2)
        if isinstance(model, DeepFilter):
            model.say.weight.normal_(0, 0.3)
            model.place.normal_()
    content = {
        "config": settings.model_dump(mode="json"),
        "data": [{"name": "nothing", "recordings": 0}],
        "validation": [],
        "commit": "0123456789ab",
        "step": 7,
        "seconds": 60.0,
        "history": [{"nsdr_vocals": 1.234, "nsdr_accompaniment": 2.345, "loss": 0.1}],
        "ema": model.state_dict(),
    }
    checkpoint.save(path, content)
    return path
