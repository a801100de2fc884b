"""Data of the Bures-Wasserstein batch norm paper, and whole runs on it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from curvature.callbacks.interrupt import Interrupted
from curvature.claims.schema import load
from curvature.data.covariances import NuisanceFamily, covariances, region_covariances
from curvature.engine import run
from curvature.errors import ConfigError
from curvature.models.spdnet.facts import conditioning, facts
from curvature.papers.spd_batchnorm import SPDBatchNorm

ROOT = Path(__file__).parents[2]


def composed(*overrides, experiment="spd_batchnorm"):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=[f"experiment={experiment}", *overrides])


def condition(X):
    values = torch.linalg.eigvalsh(X)
    return values[:, -1] / values[:, 0]


def test_nuisance_family_has_the_conditioning_it_is_made_for():
    ill, control = (NuisanceFamily(16, 5, exponents, 1) for exponents in ((-8.0, -3.0), (-1.5, -1.0)))
    bad, labels = ill.sample(300, 2)
    good, _ = control.sample(300, 2)
    assert float(condition(bad).quantile(0.1)) > 1e6 and float(condition(bad).quantile(0.9)) < 1e9
    assert 10 < float(condition(good).median()) < 100
    assert torch.equal(labels, torch.arange(300) % 5)
    assert torch.equal(bad, ill.sample(300, 2)[0]) and not torch.equal(bad, ill.sample(300, 3)[0])
    top = torch.linalg.eigvalsh(bad)[:, -1].mean()
    assert 0.8 < float(top) < 2.0


def test_region_covariances_follow_their_definition():
    image = torch.rand(1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = region_covariances(image, ridge=0.0)[0]
    i = image[0].numpy()
    y, x = np.meshgrid(np.linspace(-1, 1, 8), np.linspace(-1, 1, 8), indexing="ij")
    padded = np.pad(i, 1)
    Ix, Iy = np.gradient(padded, axis=1)[1:-1, 1:-1], np.gradient(padded, axis=0)[1:-1, 1:-1]
    Ixx, Iyy = np.diff(padded, 2, axis=1)[1:-1], np.diff(padded, 2, axis=0)[:, 1:-1]
    rows = [
        x,
        y,
        i,
        Ix,
        Iy,
        Ixx,
        Iyy,
        x * i,
        y * i,
        x * y * i,
        x * x * i,
        y * y * i,
        i * i,
        x * Ix,
        y * Iy,
        y * Ix,
        x * Iy,
    ]
    expected = np.cov(np.stack([row.ravel() for row in rows]))
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-12, atol=1e-14)


def test_covariances_are_unbiased():
    signals = torch.randn(3, 4, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(covariances(signals, 0.0)[1], torch.from_numpy(np.cov(signals[1].numpy())))


def test_data_change_with_the_seed_and_arms_share_them():
    def matrices(*overrides):
        data = instantiate(composed(*overrides).data)
        data.setup()
        return data.measurement_batches(50)[0][0]

    assert torch.equal(matrices("norm=aim", "seed=1"), matrices("norm=gbw", "seed=1"))
    assert not torch.equal(matrices("seed=1"), matrices("seed=2"))
    digits = matrices("data=digit_covariances")
    assert digits.shape == (50, 1, 17, 17) and bool((torch.linalg.eigvalsh(digits)[..., 0] > 0).all())


def write_mamem(folder, shape=(500, 8, 125)):
    from scipy.io import savemat

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    labels = np.arange(shape[0])[:, None] % 5
    savemat(folder / "U003.mat", {"x_test": rng.normal(size=shape), "y_test": labels.astype(np.uint8)})


def test_mamem_is_split_by_position_and_the_eeg_network_runs_on_it(tmp_path):
    write_mamem(tmp_path / "mamem_ssvep")
    overrides = ["data=mamem", f"data_root={tmp_path}", "data.subject=3", "model=eeg_spdnet", "model.filters=4"]
    cfg = composed(*overrides, f"outputs={tmp_path / 'out'}", "+debug=smoke", "tracking=offline")
    data = instantiate(cfg.data)
    data.setup()
    assert (data.train_size, data.val_size, data.test_size) == (300, 100, 100)
    split = data.splits["test"]
    position = int(split.rows[7])
    assert torch.equal(split.labels[7], data.load()["test"].labels[position]) and int(split.labels[7]) == position % 5
    from scipy.io import loadmat

    signals = torch.from_numpy(loadmat(tmp_path / "mamem_ssvep" / "U003.mat")["x_test"]).float().double().sum((1, 2))
    for name, trials in (("train", slice(300)), ("val", slice(300, 400)), ("test", slice(400, 500))):
        ((inputs, _),) = data.measurement_batches(len(signals[trials]), name)
        torch.testing.assert_close(inputs.double().sum((1, 2, 3)).sort().values, signals[trials].sort().values)
    metrics = run(cfg).metrics
    assert 0.0 <= metrics["test/accuracy"] <= 1.0 and "data/ill_conditioned" not in metrics


def test_hdm05_reads_a_file_for_each_sample(tmp_path):
    folder = tmp_path / "hdm05"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(12):
        factor = rng.normal(size=(93, 100))
        np.save(folder / f"s{index}_{10 * (index % 3)}.npy", factor @ factor.T)
    arguments = ["data=hdm05", f"data_root={tmp_path}", "data.batch_size=2", "data.num_classes=3"]
    data = instantiate(composed(*arguments).data)
    data.setup()
    images, labels = data.measurement_batches(data.train_size)[0]
    assert images.shape[1:] == (1, 93, 93) and set(labels.tolist()) <= {0, 1, 2} and data.test_size == 6
    again, other = (instantiate(composed(*arguments, f"data.seed={seed}").data) for seed in (data.seed, data.seed + 1))
    again.setup(), other.setup()
    assert list(data.splits["test"].rows) == list(again.splits["test"].rows)
    assert set(data.splits["test"].rows) != set(other.splits["test"].rows)
    first, second = ([labels for _, labels in data.test_dataloader()[0]] for _ in range(2))
    assert torch.equal(torch.cat(first), torch.cat(second)), "the test images come in one order"
    smoke = ["+debug=smoke", "tracking=offline", f"outputs={tmp_path / 'out'}"]
    metrics = run(composed(*arguments, *smoke, experiment="paper/spd_batchnorm")).metrics
    assert np.isfinite(metrics["test/loss"]) and metrics["norm/metric_moved"] > 0
    assert (data.train_size, data.val_size) == (6, 0) and "val/loss" not in metrics, "the whole half is trained on"


def test_ntu_sequences_become_covariances_with_trace_one(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        folder = tmp_path / "ntu60" / name
        folder.mkdir(parents=True)
        for index in range(4):
            sequence = rng.normal(size=(3, 80, 25, 2)) * np.array([0.1, 1.0])
            np.save(
                folder / f"S001C001P001R001A{index % 2 + 1:03d}.npy" if index < 2 else folder / f"B{index}A001.npy",
                sequence,
            )
    overrides = [f"data_root={tmp_path}", "data=ntu60", "data.batch_size=2", "data.num_workers=0"]
    data = instantiate(composed(*overrides).data)
    data.setup()
    assert (data.train_size, data.val_size, data.test_size) == (4, 0, 4)
    source, rows = data.splits["train"].source, np.array([0, 1])
    plain, augmented = source.images(rows), source.images(rows, np.array([5, 6]))
    assert torch.equal(plain, source.images(rows)) and torch.equal(augmented, source.images(rows, np.array([5, 6])))
    assert float((plain - augmented).abs().max()) > 1e-3
    torch.testing.assert_close(plain[:, 0].diagonal(dim1=-2, dim2=-1).sum(-1), torch.full((2,), 1 + 75e-6).double())


def write_uav(folder, name="temp_2", size=51):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for label in (7, 12):
            (folder / split / str(label)).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                factor = rng.normal(size=(size, 60))
                with h5py.File(folder / split / str(label) / f"{index}.mat", "w") as file:
                    file[name] = label * (factor @ factor.T)


def test_uav_human_reads_a_folder_for_each_class(tmp_path):
    write_uav(tmp_path / "uav_human")
    overrides = ["data=uav_human", f"data_root={tmp_path}", "data.batch_size=2"]
    data = instantiate(composed(*overrides).data)
    data.setup()
    assert (data.train_size, data.val_size, data.test_size) == (6, 0, 4)
    for split in ("train", "test"):
        ((matrices, labels),) = data.measurement_batches(len(data.splits[split]), split)
        assert matrices.shape[1:] == (1, 51, 51) and matrices.dtype == torch.float64
        traces = matrices[:, 0].diagonal(dim1=-2, dim2=-1).sum(-1)
        assert float(traces[labels == 1].max()) < float(traces[labels == 0].min())


def test_damaged_uav_human_files(tmp_path):
    def setup():
        instantiate(composed("data=uav_human", f"data_root={tmp_path}").data).setup()

    write_uav(tmp_path / "uav_human", name="other")
    with pytest.raises(ConfigError, match="temp_2"):
        setup()
    write_uav(tmp_path / "uav_human", size=50)
    with pytest.raises(ConfigError, match="51"):
        setup()
    (tmp_path / "uav_human" / "val" / "9").mkdir()
    (tmp_path / "uav_human" / "val" / "9" / "0.mat").touch()
    with pytest.raises(ConfigError, match="not 9"):
        setup()


def test_seeds_can_run_through_the_subjects_of_mamem():
    for seed, subject in ((0, 1), (10, 11), (11, 1), (54, 11)):
        data = composed("data=mamem", "data.subject=null", "data.seed=${seed}", f"seed={seed}").data
        assert instantiate(data).subject == subject


@pytest.mark.parametrize("name", ["mamem", "hdm05", "ntu60", "uav_human"])
def test_missing_data_is_said_before_anything_is_spent(name, tmp_path):
    with pytest.raises(ConfigError, match=r"data_root.*a directory that holds"):
        instantiate(composed(f"data={name}", f"data_root={tmp_path}").data).setup()
    with pytest.raises(ConfigError, match="CURVATURE_DATA"):
        instantiate(composed(f"data={name}", "data_root=null").data).setup()


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["data.exponents=[-1,-3]"], "data.exponents"),
        (["data.image_shape=[1,4,4]"], "data.image_shape"),
        (["data=mamem", "data.subject=12"], "data.subject"),
    ],
)
def test_bad_arguments_of_the_data(overrides, key):
    with pytest.raises(InstantiationException, match=key.replace(".", r"\.")):
        instantiate(composed(*overrides).data)


def test_damaged_mamem_file(tmp_path):
    write_mamem(tmp_path / "mamem_ssvep", (10, 8, 125))
    data = instantiate(composed("data=mamem", f"data_root={tmp_path}", "data.subject=3").data)
    with pytest.raises(ConfigError, match="U003"):
        data.setup()
    (tmp_path / "mamem_ssvep" / "U004.mat").write_bytes(b"not a mat file")
    data = instantiate(composed("data=mamem", f"data_root={tmp_path}", "data.subject=4").data)
    with pytest.raises(ConfigError, match="U004"):
        data.setup()


def test_facts_hold_and_conditioning_counts():
    found = facts(7)
    for name in ("bw_at_identity", "affine_at_point", "variance"):
        assert found[f"fact/{name}_error"] < 1e-12
    assert found["fact/mean_error_converged"] < 1e-12 < found["fact/mean_error_one_step"]
    assert found["fact/condition_exponent_bw"] == pytest.approx(1) and found["fact/folded"] == 0
    X = torch.diag_embed(torch.tensor([[1.0, 1e-8], [1.0, 1e-2], [1.0, 1e-7]]).double())
    counted = conditioning([X[:2], X[2:]])
    assert counted["data/ill_conditioned"] == pytest.approx(2 / 3)
    assert counted["data/condition_ridged_min"] == pytest.approx((1 + 1e-6) / (1e-2 + 1e-6))


@pytest.mark.parametrize("norm", ["none", "aim", "lie", "spdmbn", "bw", "gbw"])
def test_runs_learn_and_report(norm, tmp_path):
    cfg = composed(
        f"norm={norm}", "max_steps=60", f"outputs={tmp_path}", "tracking=offline", "trainer.enable_progress_bar=false"
    )
    metrics = run(cfg).metrics
    assert metrics["test/accuracy"] > 0.3
    assert metrics["data/ill_conditioned"] == 1.0
    if norm in ("bw", "gbw"):
        assert (metrics["norm/metric_moved"] > 1e-3) == (norm == "gbw")
        assert metrics["norm/folded"] < 0.5 and metrics["norm/scale"] != 1.0


def test_interrupted_run_goes_on_to_the_numbers_of_one_that_was_not(tmp_path, monkeypatch):
    common = ["+debug=smoke", "max_steps=8", "checkpoint.every_n_steps=3", "trainer.log_every_n_steps=1"]
    common += ["tracking=offline"]
    expected = run(composed(*common, f"outputs={tmp_path / 'whole'}")).metrics
    cfg = composed(*common, f"outputs={tmp_path / 'cut'}")
    original, seen = SPDBatchNorm.training_step, []

    def step(self, batch, batch_idx):
        if self.trainer.global_step == 5 and not seen:
            seen.append(self.trainer.global_step)
            raise KeyboardInterrupt
        return original(self, batch, batch_idx)

    monkeypatch.setattr(SPDBatchNorm, "training_step", step)
    with pytest.raises((KeyboardInterrupt, SystemExit, Interrupted)):
        run(cfg)
    assert seen == [5]
    assert run(cfg).metrics == expected


def test_claims_file_is_valid_and_names_every_claim():
    claims = load(ROOT / "experiments" / "spd_batchnorm" / "claims.yaml")
    assert [claim.id for claim in claims.claims] == [f"C{number}" for number in range(1, 11)]
    for name, arm in claims.arms.items():
        cfg = composed(*arm.overrides)
        assert ("digits" in name) == ("Digit" in cfg.data._target_)


def test_claims_on_eeg_pair_the_arms_by_subject():
    claims = load(ROOT / "experiments" / "spd_batchnorm" / "claims.lab.yaml")
    for arm in claims.arms.values():
        cfg = composed(*arm.overrides, "seed=7", experiment="lab/spd_batchnorm")
        assert cfg.data.subject == 7
    assert claims.seeds == list(range(1, 12))


def test_claims_at_paper_scale_train_for_the_published_epochs():
    claims = load(ROOT / "experiments" / "spd_batchnorm" / "claims.paper.yaml")
    published = {
        "hdm05": ("HDM05", 200 * 35, 2.5e-3),
        "ntu60": ("NTU60", 100 * 147, 1e-2),
        "mamem": ("Mamem", 200 * 10, 2.5e-3),
        "uav": ("UAV", 200 * 445, 2.5e-3),
    }
    for name, arm in claims.arms.items():
        data, steps, lr = published[name.split("-")[0]]
        cfg = composed(*arm.overrides, experiment="paper/spd_batchnorm")
        assert data in cfg.data._target_ and (cfg.max_steps, cfg.lr) == (steps, lr)
        assert cfg.weight_decay == (0.05 if data == "Mamem" else 0.0)


@pytest.mark.parametrize("scale", ["", "lab/", "paper/"])
def test_every_norm_can_be_chosen_at_every_scale(scale):
    for path in (ROOT / "conf" / "norm").glob("*.yaml"):
        cfg = composed(f"norm={path.stem}", experiment=f"{scale}spd_batchnorm")
        assert instantiate(cfg.norm)(4)(torch.eye(4).double().expand(3, 4, 4)).shape == (3, 4, 4)
