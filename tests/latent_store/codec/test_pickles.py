"""Files of `torch.save`: those that would take a reader without an end are refused at once."""

from __future__ import annotations

import collections
import time

import pytest
import torch

from latent_store.codec.checkpoints import codec_from_bytes
from latent_store.codec.pickles import load_pickle, require_held
from latent_store.errors import CheckpointError
from tests.latent_store.codec.made_pickles import ENDLESS, saved


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_stands_for_far_more_than_the_file_holds_is_refused_at_once(kind: str) -> None:
    data = ENDLESS[kind]()
    assert len(data) < 2**23
    began = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        codec_from_bytes(data)
    assert str(caught.value).isprintable()
    with pytest.raises(ValueError, match="it claims to hold far more than it is long"):
        require_held(load_pickle(data), len(data))
    assert time.process_time() - began < 60


@pytest.mark.parametrize("form", ["old", "archive"])
def test_what_networks_and_optimizers_are_is_read(form: str) -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(50)))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    tied = torch.ones(1000)
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "tied": [tied] * 8,
        "order": list(range(50_000)),
        "seen": {("train", 3): torch.Size([1, 2]), 7: collections.Counter("aab")},
        "text": "x" * 10**6,
        "deep": [[[[[[(((),),)]]]]]],
    }
    data = saved(content, _use_new_zipfile_serialization=form == "archive")
    found = load_pickle(data)
    require_held(found, len(data))
    assert found.keys() == content.keys()
    for name in ("order", "seen", "text", "deep"):
        assert found[name] == content[name]
    for name, tensor in content["model"].items():
        assert torch.equal(found["model"][name], tensor)
    assert found["optimizer"]["param_groups"] == content["optimizer"]["param_groups"]
