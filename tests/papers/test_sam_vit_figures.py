"""The figures of the page come from finished runs."""

import shutil
from pathlib import Path

from curvature.engine import run
from curvature.papers import sam_vit_figures as figures

ROOT = Path(__file__).parents[2]
SHORT = ["max_steps=2", "tracking=offline", "trainer.enable_progress_bar=false", "callbacks.step_time=null"]
SHORT += ["+callbacks.measures.measures=[loss]", "test=false"]


def test_all_figures_are_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figures, "POINTS", 3)
    monkeypatch.setattr(figures, "METRICS", {"train/final_loss": "training loss"})
    folder = tmp_path / "experiments" / "sam_vit"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "experiments" / "sam_vit" / "claims.yaml", folder)
    arguments = [*SHORT, f"outputs={tmp_path}", f"experiments={folder.parent}"]
    for model in figures.ARCHITECTURES:
        for optimizer in ("adamw", "sam"):
            run(figures.composed([f"model={model}_desk", f"optimizer={optimizer}", *arguments]))
    figures.main(arguments)
    for name in ("arms", "landscape", "attention"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not (folder / "arms_cifar10.png").exists()
    lines = [line for line in capsys.readouterr().out.splitlines() if "mean entropy" in line]
    assert len(lines) == 2 and all("uniform is 2.773" in line for line in lines)
