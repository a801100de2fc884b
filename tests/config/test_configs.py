"""Folders of configs and what their groups offer."""

import pytest

from curvature.configs import config_directories, config_directory, group_options, split_config_directory


@pytest.mark.parametrize("words", [["--config-dir", "more"], ["--config-dir=more"], ["-cd", "more"]])
def test_a_folder_on_the_command_line_comes_first(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more" / "experiment" / "lab").mkdir(parents=True)
    (tmp_path / "more" / "experiment" / "lab" / "mine.yaml").write_text("")
    line = ["experiment=sam_vit", *words, "lr=1"]
    assert split_config_directory(line) == ([tmp_path / "more"], ["experiment=sam_vit", "lr=1"])
    assert config_directories(line) == [tmp_path / "more", config_directory()]
    assert {"lab/mine", "sam_vit"} <= set(group_options("experiment", line))


def test_without_one_there_is_the_checkout_alone():
    assert split_config_directory(["lr=1"]) == ([], ["lr=1"])
    assert config_directories([]) == [config_directory()]
    assert "sam" in group_options("optimizer", [])
    assert group_options("no_such_group", []) == []


def test_options_that_plugins_bring_are_listed():
    assert {"basic", "joblib", "slurm"} <= set(group_options("hydra/launcher", []))
    assert {"basic", "claims"} <= set(group_options("hydra/sweeper", []))
