"""Two folders scored without a run: pairs, whole sets, label maps, and every bad input."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.metrics import structural_similarity
from test_cli import run

import sisbench
from sisbench import metrics
from sisbench.core.errors import UserError
from sisbench.metrics.base import ImageBatch, RowMaker
from sisbench.metrics.frechet import FID

SIDE, N = 32, 6
PAIRED = ["psnr", "ssim"]


class Means(RowMaker):
    """Features that take no network: the mean colours of four stripes."""

    name = "inception"
    calls = 0

    def fingerprint(self) -> str:
        return "m" * 64

    def rows(self, batch: ImageBatch) -> dict[str, np.ndarray]:
        type(self).calls += 1
        images = batch.the("image").numpy().astype(np.float64)
        return {"features": images.reshape(len(images), -1, 4, SIDE * SIDE // 4).mean(3)[:, 0]}


def picture(seed: int, side: int = SIDE) -> np.ndarray:
    generator = np.random.default_rng(seed)
    smooth = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(smooth).resize((side, side), Image.Resampling.BICUBIC))


def worse(image: np.ndarray) -> np.ndarray:
    grain = np.random.default_rng(int(image.sum())).normal(0, 9, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Six photographs, and a noisy image of each."""
    made, real = tmp_path / "made", tmp_path / "real"
    made.mkdir()
    real.mkdir()
    for k in range(N):
        Image.fromarray(picture(k)).save(real / f"{k}.png")
        Image.fromarray(worse(picture(k))).save(made / f"{k}.png")
    return made, real


@pytest.fixture
def cheap_fid(monkeypatch: pytest.MonkeyPatch) -> type[Means]:
    monkeypatch.setattr(FID, "maker", Means)
    monkeypatch.setattr(Means, "calls", 0)
    return Means


def values(frame: pd.DataFrame) -> dict[str, float]:
    return dict(zip(frame["metric"], frame["value"], strict=True))


def test_scores_of_pairs_are_those_of_numpy_and_skimage(pair: tuple[Path, Path]) -> None:
    frame = sisbench.score_images(*pair, metrics=PAIRED)
    psnr, ssim = [], []
    for k in range(N):
        a, b = worse(picture(k)), picture(k)
        psnr.append(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        ssim.append(structural_similarity(a, b, channel_axis=2, data_range=255, **options))
    np.testing.assert_allclose(values(frame)["psnr"], np.mean(psnr))
    np.testing.assert_allclose(values(frame)["ssim"], np.mean(ssim), atol=2e-3)
    first = frame.iloc[0]
    assert (first["n"], first["method"], first["dataset"]) == (N, "made", "real")
    assert first["protocol"].startswith("sisbench1@")


def test_the_scores_are_a_runs(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """The same images as a method of a run get the very same numbers."""
    label = np.ones((SIDE, SIDE), np.uint8)
    for k in range(N):
        (tmp_path / "data/labels").mkdir(parents=True, exist_ok=True)
        Image.fromarray(label).save(tmp_path / f"data/labels/{k}.png")
    shutil.copytree(pair[1], tmp_path / "data/images")
    config = {
        "name": "t",
        "output": str(tmp_path / "run"),
        "methods": [{"name": "images", "root": str(pair[0])}],
        "datasets": [
            {"name": "folder", "root": str(tmp_path / "data"), "space": "celebamask_hq"}
            | {"size": SIDE}
        ],
        "metrics": PAIRED,
    }
    of_run = sisbench.run(config).scores()
    own = sisbench.score_images(*pair, metrics=PAIRED)
    columns = ["metric", "protocol", "value", "se", "low", "high", "n", "convention"]
    pd.testing.assert_frame_equal(of_run[columns], own[columns])


def test_whole_sets_where_no_stem_is_shared(
    pair: tuple[Path, Path], cheap_fid: type[Means], capsys: pytest.CaptureFixture[str]
) -> None:
    made, real = pair
    for path in sorted(made.iterdir()):
        path.rename(made / f"x{path.name}")
    frame = sisbench.score_images(made, real)
    assert "fid" in values(frame)
    assert not set(PAIRED) & set(frame["metric"])

    def features(images: list[np.ndarray]) -> np.ndarray:
        stacked = np.stack(images).transpose(0, 3, 1, 2).astype(np.float64)
        return stacked.reshape(N, -1, 4, SIDE * SIDE // 4).mean(3)[:, 0]

    generated = features([worse(picture(k)) for k in range(N)])
    reference = metrics.create("fid").reduce(
        {"features": generated}, {"features": features([picture(k) for k in range(N)])}
    )
    np.testing.assert_allclose(values(frame)["fid"], reference.value)
    code, text = run(capsys, "score-images", str(made), str(real), "-m", "fid,psnr")
    assert code == 0
    assert "scores of whole sets only" in text
    assert "no psnr: it compares pairs" in text


def test_rows_of_the_photographs_are_kept_by_content(
    pair: tuple[Path, Path], cheap_fid: type[Means]
) -> None:
    first = sisbench.score_images(*pair, metrics=["fid"])
    assert cheap_fid.calls == 2, "one batch of images, one of photographs"
    assert values(sisbench.score_images(*pair, metrics=["fid"])) == values(first)
    assert cheap_fid.calls == 3, "the images alone"
    Image.fromarray(picture(99)).save(pair[1] / "3.png")
    assert values(sisbench.score_images(*pair, metrics=["fid"])) != values(first)
    assert cheap_fid.calls == 5
    assert [p.name for p in pair[0].parent.iterdir() if p.is_dir()] in (
        ["made", "real"],
        ["real", "made"],
    )


def test_unpaired_stems_are_counted_and_left_out_or_an_error(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], cheap_fid: type[Means]
) -> None:
    made, real = pair
    (made / "2.png").rename(made / "stranger.png")
    code, text = run(capsys, "score-images", str(made), str(real), "-m", "psnr,fid", "--json")
    assert code == 0
    assert "1 of 6 images have no photograph: stranger" in text
    assert "1 of 6 photographs have no image: 2" in text
    psnr, fid = json.loads(text[text.index("[\n") : text.rindex("]") + 1])
    assert (psnr["n"], psnr["marks"]) == (5, ["5 of 6 images have a photograph"])
    assert (fid["n"], fid["n_real"], fid["marks"]) == (6, 6, [])
    with pytest.raises(UserError, match="stranger"):
        sisbench.score_images(made, real, missing="error")


def test_a_pattern_pairs_other_names(pair: tuple[Path, Path]) -> None:
    before = sisbench.score_images(*pair, metrics=PAIRED)
    for path in sorted(pair[0].iterdir()):
        path.rename(pair[0] / f"{path.stem}_fake.png")
    after = sisbench.score_images(*pair, metrics=PAIRED, pattern="{id}_fake")
    pd.testing.assert_frame_equal(before, after)
    with pytest.raises(UserError, match=r"must hold \{id\}"):
        sisbench.score_images(*pair, pattern="fake")


def test_other_sizes_are_refused_or_resized_and_said(pair: tuple[Path, Path]) -> None:
    made, real = pair
    Image.fromarray(picture(0, 64)).save(made / "0.png")
    with pytest.raises(UserError, match=r"5 of 32x32, 1 of 64x64 in .*made.*expected 32x32"):
        sisbench.score_images(made, real)
    (score,) = sisbench.score_images(made, real, metrics=["psnr"], resize="area").itertuples()
    assert score.resize == "images from 64x64 to 32x32 by PIL's area"
    small = Image.fromarray(picture(0, 64)).resize((SIDE, SIDE), Image.Resampling.BOX)
    error = np.mean((np.asarray(small, float) - picture(0)) ** 2)
    others = [worse(picture(k)).astype(float) - picture(k) for k in range(1, N)]
    errors = [error, *(np.mean(e**2) for e in others)]
    np.testing.assert_allclose(score.value, np.mean([10 * np.log10(255**2 / e) for e in errors]))
    Image.fromarray(picture(0, 48)).save(real / "0.png")
    with pytest.raises(UserError, match=r"real holds images of several sizes.*48x48"):
        sisbench.score_images(made, real, resize="area")
    frame = sisbench.score_images(made, real, metrics=["psnr"], resize="area", size=SIDE)
    assert "from 48x48 and 64x64 to 32x32" in frame["resize"][0]


def test_label_maps_bring_the_parsers_scores(pair: tuple[Path, Path], tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    for k in range(N):
        label = np.zeros((64, 64), np.uint8)
        label[16:48] = 1
        Image.fromarray(label).save(labels / f"{k}.png")
    frame = sisbench.score_images(
        *pair, labels, space="celebamask_hq", metrics=["miou", "accuracy"], parsers=["toy"]
    )
    parser = sisbench.create_parser("toy", "celebamask_hq")
    import torch

    images = np.stack([worse(picture(k)) for k in range(N)]).transpose(0, 3, 1, 2)
    found = parser(torch.from_numpy(images.copy())).numpy()
    side = found.shape[1]
    truth = np.zeros((side, side), int)
    truth[side // 4 : 3 * side // 4] = 1
    np.testing.assert_allclose(values(frame)["accuracy"], np.mean(found == truth))
    assert frame["parser"].str.startswith("toy").all()
    (labels / "2.png").unlink()
    again = sisbench.score_images(
        *pair, labels, space="celebamask_hq", metrics=["miou"], parsers=["toy"]
    )
    assert again["marks"][0] == "5 of 6 images have a label map"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "{real}"], "no folder nowhere"),
        (["{empty}", "{real}"], "holds no files of type"),
        (["{made}", "{text}"], "no image in"),
        (["{made}", "{real}", "-m", "pnsr"], "did you mean 'psnr'"),
        (["{made}", "{real}", "-p", "sisbench"], "did you mean 'sisbench1'"),
        (["{made}", "{real}", "--resize", "bicubik"], "did you mean 'bicubic'"),
        (["{made}", "{tmp}/nowhere"], "nowhere: give the path as seen from the current folder"),
        (["{made}", "{real}", "--missing", "ignore"], "skip or error"),
        (["{made}", "{real}", "--labels", "{real}"], "need their label space"),
        (["{made}", "{real}", "--space", "celebamask_hq"], "needs label maps"),
        (["{made}", "{real}", "--labels", "{jpeg}", "--space", "celebamask_hq"], "lowers mIoU"),
        (["{made}", "{real}", "--weights", "inception"], "is no option"),
        (["{made}", "{real}", "--parsers", "toyy"], "did you mean 'toy'"),
        (["{made}", "{real}", "--size", "64"], "expected 64x64"),
    ],
)
def test_bad_input_is_one_message(
    arguments: list[str],
    message: str,
    pair: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"made": pair[0], "real": pair[1], "tmp": tmp_path}
    for name, file in (("empty", ""), ("text", "0.png"), ("jpeg", "0.jpg")):
        places[name] = tmp_path / name
        places[name].mkdir()
        if file:
            (places[name] / file).write_text("no picture")
    filled = [a.format(**places) for a in arguments]
    code, text = run(capsys, "score-images", *filled)
    assert code == 2
    assert text.startswith("error:")
    assert message in " ".join(text.split())


def test_an_unreadable_image_is_left_out_counted_and_named(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = pair[0] / "4.png"
    path.write_bytes(path.read_bytes()[:200])
    code, text = run(capsys, "score-images", *map(str, pair), "-m", "psnr")
    assert code == 0
    assert "left out of the images: 4:" in text
    assert "1 of 6 images left out: their files are bad" in " ".join(text.split())


def test_absent_weights_are_a_reason_with_the_command(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = run(capsys, "score-images", *map(str, pair), "-m", "psnr,fid")
    assert code == 0
    assert "no fid: the weights 'inception'" in text
    assert "sisbench weights fetch inception" in text
    code, text = run(capsys, "score-images", *map(str, pair), "-m", "fid,seconds")
    assert code == 1
    assert "nothing was measured" in text


def test_what_is_printed(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["score-images", *map(str, pair), "-m", "psnr,miou", "-q"]
    frame = sisbench.score_images(*pair, metrics=["psnr", "miou"])
    code, text = run(capsys, *arguments, "--csv")
    assert code == 0
    pd.testing.assert_frame_equal(
        pd.read_csv(io.StringIO(text))[["metric", "value", "se", "n"]],
        frame[["metric", "value", "se", "n"]],
    )
    psnr, miou = json.loads(run(capsys, *arguments, "--json")[1])
    assert psnr["value"] == frame["value"][0]
    assert miou["value"] is None
    assert "give --labels" in miou["reason"]
    text = run(capsys, *arguments)[1]
    assert f"{frame['value'][0]:.2f}" in text
    assert "PSNR (dB) ↑" in text


def test_by_default_all_that_is_defined(pair: tuple[Path, Path]) -> None:
    names = set(sisbench.score_images(*pair)["metric"])
    assert {"psnr", "ssim", "lpips", "fid"} <= names
    assert not {"miou", "r_fid", "s_fid", "lpips_diversity", "seconds", "locality"} & names
