"""Generator states survive a checkpoint; damaged files are recognised."""

import random

import numpy as np
import pytest
import torch

from curvature.callbacks.checkpoint import generator_states, is_intact, latest_intact, restore_generators


def draw():
    np.random.standard_normal()
    return random.random(), np.random.random(), torch.rand(3).tolist(), np.random.standard_normal()


def test_generator_states_round_trip_through_a_safe_file(tmp_path):
    random.gauss(0, 1)
    np.random.standard_normal()
    torch.save(generator_states(), tmp_path / "states.pt")
    expected = draw()
    draw()
    restore_generators(torch.load(tmp_path / "states.pt", weights_only=True))
    assert draw() == expected


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "text"])
def test_damage_is_recognised(tmp_path, damage):
    path = tmp_path / "last.ckpt"
    torch.save({"weights": torch.arange(1000.0)}, path)
    assert is_intact(path)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes({"truncate": content[:-100], "flip": content, "empty": b"", "text": b"not a checkpoint"}[damage])
    assert not is_intact(path)
    torch.save({"weights": torch.arange(1000.0)}, tmp_path / "previous.ckpt")
    assert latest_intact(tmp_path) == (tmp_path / "previous.ckpt", [path])


def test_nothing_to_resume(tmp_path):
    assert latest_intact(tmp_path) == (None, [])
