"""Generator states survive a checkpoint; damaged files are recognised."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from curvature.callbacks.checkpoint import generator_states, is_intact, latest_intact, restore_generators

CHECKPOINT = {"weights": torch.arange(1000.0), "curvature": {"batches": 3}}


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
    torch.save(CHECKPOINT, path)
    assert is_intact(path)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes({"truncate": content[:-100], "flip": content, "empty": b"", "text": b"not a checkpoint"}[damage])
    assert not is_intact(path)
    torch.save(CHECKPOINT, tmp_path / "previous.ckpt")
    assert latest_intact(tmp_path) == (tmp_path / "previous.ckpt", [path])


class Harmful:
    """Code that a pickle runs when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_what_is_no_checkpoint_of_ours_is_passed_over_and_never_executed(tmp_path):
    torch.save({"weights": torch.arange(10.0)}, tmp_path / "last.ckpt")
    assert not is_intact(tmp_path / "last.ckpt")
    torch.save(CHECKPOINT | {"x": Harmful(tmp_path / "touched")}, tmp_path / "last.ckpt")
    assert not is_intact(tmp_path / "last.ckpt")
    assert not (tmp_path / "touched").exists()


def test_nothing_to_resume(tmp_path):
    assert latest_intact(tmp_path) == (None, [])
