"""Checks the comparison of models: its numbers, folder, pictures and command."""

import json
import shutil
import types
from pathlib import Path

import numpy as np
import onnx
import pytest

from quantnas.architectures import network
from quantnas.cli.main import main
from quantnas.config.files import sha256
from quantnas.data import image_files, photo_sets
from quantnas.data.photographs import Photograph
from quantnas.errors import DataError
from quantnas.evaluation import metrics, model_comparison, scoring, tables
from quantnas.inference import upscaler
from quantnas.reporting.plots import error_map, label_placement, pareto_front
from quantnas.runs import models

FILES = image_files.bundled().held_out


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def photo_folder(folder: Path, count: int = 2) -> Path:
    """Small photographs whose sides are not divisible by 2 or 4."""
    for i, path in enumerate(FILES[:count]):
        image_files.write(folder / f"p{i}.png", image_files.read(path)[40:119, 60 : 161 + 8 * i])
    return folder


@pytest.fixture
def here(make_run, tmp_path, monkeypatch):
    """A working folder with two runs of x2, one of x4, and photographs."""
    monkeypatch.chdir(tmp_path)
    photo_folder(Path("set5"))
    photo_folder(Path("Set14"), 3)
    photo_folder(Path("mine"), 1)
    make_run(Path("runs/export/a"), held_out="mine")
    make_run(Path("runs/export/b"))
    make_run(Path("runs/export/x4"), scale=4)
    return tmp_path


def read(folder: str) -> dict:
    return json.loads(Path("runs/evaluate", folder, "evaluation.json").read_text())


# One model


def test_a_run_is_measured_on_what_it_held_out(here, capsys):
    assert command("evaluate", "runs/export/a") == 0
    out = capsys.readouterr().out.splitlines()
    assert out.count("x2, " + scoring.PROTOCOL) == 1
    assert "a: exported file runs/export/a/model.onnx" in out
    assert [line.split()[0] for line in out if line.startswith(("p0", "mean  "))] == ["p0", "mean"]
    assert any(line.startswith("Worst for a: p0, ") for line in out)
    assert out[-1] == "evaluation: runs/evaluate/a/evaluation.md"
    found = read("a")
    assert list(found["sets"]) == ["held-out"]
    row = found["sets"]["held-out"]["models"]["a"]["images"][0]
    high = image_files.read("mine/p0.png")[:78, :100]
    low = model_comparison.photographs.read(Photograph(Path("mine/p0.png")), 2).low
    ours = models.resolve("runs/export/a").upscaler()(low)
    assert row["psnr"] == pytest.approx(metrics.psnr_y(ours, high, 2))
    assert row["ssim"] == pytest.approx(metrics.ssim_y(ours, high, 2))


def test_the_folder_holds_numbers_tables_and_pictures(here, capsys):
    sets = ["--data", "set5", "--data", "Set14"]
    assert command("evaluate", "runs/export/a", *sets, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == read("a") and list(found["sets"]) == ["set5", "Set14"]
    folder = Path("runs/evaluate/a")
    page = (folder / "evaluation.md").read_text()
    assert page.count("PSNR-Y in dB / SSIM-Y; over bicubic and to the float network") == 2
    assert "kB are 1000 bytes of the file" in page
    for name, group in found["sets"].items():
        rows = group["models"]["a"]["images"]
        gains = [row["psnr"] - row["bicubic_psnr"] for row in rows]
        assert group["models"]["a"]["worst"] == rows[int(np.argmin(gains))]
        mean = np.mean([row["psnr"] for row in rows])
        assert group["models"]["a"]["mean"]["psnr"] == pytest.approx(mean)
        picture = f"plots/difference-{name}-a.png"
        assert picture in page and image_files.read(folder / picture).shape[1] > 1000
        assert f"## {name}" in page and all(f"| {row['image']} |" in page for row in rows)
    assert command("evaluate", "runs/export/a", *sets) == 0
    assert Path("runs/evaluate/a-2/evaluation.md").is_file()
    assert command("evaluate", "runs/export/a", "--name", "a") == 2
    assert "not empty" in capsys.readouterr().err


def test_a_lone_file_is_measured_on_the_bundled_photographs(here, capsys, monkeypatch):
    monkeypatch.setattr(
        image_files, "bundled", lambda: image_files.Bundled((), (Path("set5/p1.png"),))
    )
    assert command("evaluate", "runs/export/a/model.onnx", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)["sets"]) == ["bundled"]


def test_low_resolution_files_are_used_where_they_are(here, capsys):
    pair = model_comparison.photographs.read(Photograph(Path("set5/p0.png")), 2)
    for grey, name in ((0, "same"), (60, "dark")):
        image_files.write(Path(name, "GTmod12", "p0.png"), pair.high)
        dark = np.maximum(pair.low, grey) - np.uint8(grey)
        image_files.write(Path(name, "LRbicx2", "p0.png"), dark)
    folders = ["--data", "same/GTmod12", "--data", "dark", "--data", "set5"]
    assert command("evaluate", "runs/export/b", *folders, "--json") == 0
    sets = json.loads(capsys.readouterr().out)["sets"]
    first = {name: group["models"]["b"]["images"][0] for name, group in sets.items()}
    assert first["same"]["psnr"] == first["set5"]["psnr"] and next(iter(first)) == "same"
    assert first["dark"]["bicubic_psnr"] < first["set5"]["bicubic_psnr"] - 5
    assert (sets["dark"]["low"], sets["set5"]["low"]) == ("files of their own", "bicubic")


def test_the_protocol_tells_where_the_low_resolution_is_from(here, capsys, monkeypatch):
    pair = model_comparison.photographs.read(Photograph(Path("set5/p0.png")), 2)
    image_files.write(Path("own/hr/p0.png"), pair.high)
    image_files.write(Path("own/lr/p0.png"), pair.low)
    notes, tail = [], scoring.PROTOCOL.removeprefix("uint8 bicubic LR")
    monkeypatch.setattr(pareto_front, "draw", lambda panels, note, path: notes.append(note))
    mixed = "uint8 LR from files or, where there are none, bicubic" + tail
    protocols = {("own",): "uint8 LR from files" + tail, ("own", "set5"): mixed}
    protocols[("set5",)] = scoring.PROTOCOL
    for folders, protocol in protocols.items():
        data = [part for folder in folders for part in ("--data", folder)]
        name = "-".join(folders)
        assert command("evaluate", "runs/export/b", *data, "--plot", "--name", name) == 0
        assert f"x2, {protocol}" in capsys.readouterr().out.splitlines()
        assert read(name)["protocol"] == notes[-1] == protocol
        assert f"Protocol: {protocol}." in Path("runs/evaluate", name, "evaluation.md").read_text()


def test_equal_images_count_as_100_db(tmp_path):
    image_files.write(tmp_path / "flat.png", np.full((40, 44, 3), 90, np.uint8))
    photo = Photograph(tmp_path / "flat.png")
    (row,) = scoring.score(lambda low: low.repeat(2, 0).repeat(2, 1), [photo], 2)
    assert (row.psnr, row.bicubic_psnr, row.gain) == (100.0, 100.0, 0.0)


# Several models


def test_several_models_share_tables_and_have_pictures_of_their_own(here, capsys):
    several = ["runs/export/a", "runs/export/a/checkpoints/float.safetensors", "runs/export/b"]
    assert command("evaluate", *several, "--data", "set5", "--plot") == 0
    out = capsys.readouterr().out
    assert "evaluation: runs/evaluate/comparison/evaluation.md" in out
    found = read("comparison")
    assert list(found["models"]) == ["a", "a float", "b"]
    assert [m["float"] for m in found["models"].values()] == [False, True, False]
    plots = {path.name for path in Path("runs/evaluate/comparison/plots").iterdir()}
    assert plots == {"front.png", *(f"difference-set5-{n}.png" for n in ("a", "a-float", "b"))}
    assert {line.split()[0] for line in out.splitlines() if " / " in line} >= {"bicubic", "a", "b"}
    assert "plots/front.png" in Path("runs/evaluate/comparison/evaluation.md").read_text()


def test_models_without_a_common_held_out_set_are_measured_on_the_bundled_one(here):
    ours, other = (models.resolve(f"runs/export/{name}") for name in "ab")
    assert [group.name for group in model_comparison.choose([ours], [])] == ["held-out"]
    assert [group.name for group in model_comparison.choose([other, ours], [])] == ["bundled"]


def test_published_points_stand_on_set14_at_x4_alone(here, capsys):
    assert command("evaluate", "runs/export/a", "--data", "Set14", "--published") == 2
    assert "published points are of x4, but the models are of x2" in capsys.readouterr().err
    assert command("evaluate", "runs/export/x4", "--data", "set5", "--published") == 2
    assert "no set of that name is measured" in capsys.readouterr().err
    assert not Path("runs/evaluate").exists()
    assert command("evaluate", "runs/export/x4", "--data", "Set14", "--published") == 0
    assert Path("runs/evaluate/x4/plots/front.png").is_file()


def test_the_report_of_an_evaluation_is_that_of_its_run(here, capsys):
    """The report ends a chain of single commands, and holds the sets of the evaluation too."""
    run = Path("runs/export/a")
    found = json.loads((run / "genotype.json").read_text())
    assert found["space"] == "tiny"
    (run / "steps" / "train.json").unlink()
    assert command("report", run) == 3 and "'train' has not finished" in capsys.readouterr().err
    assert command("evaluate", run, "--data", "set5") == 0
    assert model_comparison.of_run(Path("runs/evaluate/a")) == (
        run.resolve(),
        [str(Path("set5").resolve())],
    )
    assert model_comparison.of_run(run) is None
    assert command("evaluate", run, "runs/export/b", "--data", "set5") == 0
    assert command("report", "runs/evaluate/comparison") == 3
    assert "not of one run" in capsys.readouterr().err


def record_export(run: Path) -> None:
    """Let a run record the content of its exported file."""
    content = json.dumps({"seconds": 1.0, "sha256": sha256(run / "model.onnx")})
    (run / "steps" / "export.json").write_text(content)


def references(name: str) -> set[str]:
    """The models of an evaluation that were compared with their float networks."""
    rows = read(name)["sets"]["set5"]["models"]
    return {label for label, row in rows.items() if row["mean"].get("to_float") is not None}


def test_a_file_is_compared_with_the_float_network_of_the_run_that_made_it(here):
    """A file that only lies beside the checkpoints of a run is not."""
    run = Path("runs/export/a")
    for number, (given, wanted) in enumerate(
        [(run, {"a"}), (run / "model.onnx", set()), (run / "model.onnx", {"a"})]
    ):
        if number == 2:
            record_export(run)
        assert command("evaluate", given, "--data", "set5", "--name", f"n{number}") == 0
        assert references(f"n{number}") == wanted
    shutil.copy("runs/export/b/model.onnx", run / "other.onnx")
    add = onnx.load(run / "other.onnx")
    add.doc_string = "another file"
    onnx.save(add, run / "other.onnx")
    assert command("evaluate", run / "other.onnx", "--data", "set5", "--name", "other") == 0
    assert references("other") == set()


@pytest.mark.parametrize("what", ["damaged", "of another network", "of another scale"])
def test_a_float_checkpoint_that_cannot_be_used_is_left_out(here, what):
    run, other = Path("runs/export/a"), Path("runs/export/x4")
    file = run / "checkpoints" / "float.safetensors"
    if what == "damaged":
        file.write_bytes(file.read_bytes()[:100])
    elif what == "of another network":
        shutil.copy(other / "checkpoints" / "float.safetensors", file)
    else:
        for name in ("space.yaml", "config.yaml"):
            text = (run / name).read_text()
            (run / name).write_text(text.replace("scale: 2", "scale: 4"))
        shutil.copy(other / "checkpoints" / "float.safetensors", file)
    assert command("evaluate", run, "--data", "set5", "--name", "n") == 0
    assert references("n") == set()


# What goes wrong


def test_what_cannot_be_measured_is_one_clear_sentence(here, capsys):
    image_files.write(Path("tiny/t.png"), np.zeros((15, 60, 3), np.uint8))
    Path("empty").mkdir()
    Path("cut.onnx").write_bytes(Path("runs/export/a/model.onnx").read_bytes()[:900])
    cases = [
        (["runs/export/a", "--data", "tiny"], 3, "too small to be measured at x2"),
        (["runs/export/a", "--data", "empty"], 3, "holds no images"),
        (["runs/export/a", "--data", "nowhere"], 3, "does not exist"),
        (["cut.onnx"], 3, "damaged or no ONNX file"),
        (["nothing"], 2, "no run folder, file or bundled model 'nothing'"),
        (["runs/export/a", "runs/export/x4"], 2, "runs/export/a is x2, but"),
    ]
    for arguments, code, words in cases:
        assert command("evaluate", *arguments) == code
        error = capsys.readouterr().err
        assert words in error and len(error.strip().splitlines()) == 2
    assert not Path("runs/evaluate").exists()


def test_a_failed_evaluation_leaves_no_folder(here, monkeypatch, capsys):
    monkeypatch.setattr(error_map, "draw", lambda *a: (_ for _ in ()).throw(DataError("No.", "X.")))
    assert command("evaluate", "runs/export/a") == 3
    assert list(Path("runs/evaluate").iterdir()) == []


def test_an_image_that_the_network_cannot_take_is_one_clear_sentence(
    small, random_genotype, monkeypatch, tmp_path
):
    space = small["rfdn"]
    upscale = upscaler.torch_upscaler(network.build(space, random_genotype(space, 0), None))
    with pytest.raises(DataError, match="cannot enlarge 20x8 pixels: that is too small"):
        upscale(np.zeros((8, 20, 3), np.uint8))

    class Broken:
        def get_inputs(self):
            return [
                types.SimpleNamespace(name="lr", type="tensor(float)", shape=["n", 3, "h", "w"])
            ]

        def run(self, *arguments):
            raise RuntimeError("no memory\nat all")

    file = tmp_path / "a.onnx"
    file.write_bytes(b"")
    monkeypatch.setattr(upscaler, "open_session", lambda path: Broken())
    with pytest.raises(DataError, match=r"a.onnx cannot enlarge 64x40 pixels: no memory at all"):
        upscaler.onnx_upscaler(file)(np.zeros((40, 64, 3), np.uint8))


# Pictures


def test_the_difference_is_shown_with_its_numbers():
    high = image_files.read(FILES[0])[:120, :160]
    blurred, dark = high.copy(), high.copy()
    blurred[30:60, 90:120] //= 2
    dark[70:100, 20:50] //= 2
    views = {"bicubic": blurred, "mine": dark, "original": high}
    figure = error_map.difference_figure(views, 4, "title with $x_{ in it")
    assert {"original", "bicubic", "mine"} < set(texts(figure))
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    error = np.abs(metrics.luma(dark) - metrics.luma(high))[4:-4, 4:-4]
    np.testing.assert_allclose(shown[2], error)
    assert (
        f"{metrics.psnr_y(dark, high, 4):.2f} dB, SSIM {metrics.ssim_y(dark, high, 4):.4f}"
        in texts(figure)
    )
    (bar,) = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert "amplified x" in bar
    assert shown[3].shape == (64, 64, 3)


def test_a_difference_of_nothing_and_odd_sizes_are_drawn():
    for height, width in ((20, 300), (300, 20), (20, 20)):
        high = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
        views = {"bicubic": high.copy(), "mine": high.copy(), "original": high}
        assert "equal, SSIM 1.0000" in texts(error_map.difference_figure(views, 2, ""))


def points(count: int) -> tuple[pareto_front.ParetoPoint, ...]:
    """Many close points, as a search with several seeds gives them."""
    rng = np.random.default_rng(0)
    drawn = rng.uniform((1.8e9, 27.5), (2.6e9, 27.8), (count, 2))
    return tuple(
        pareto_front.ParetoPoint(f"rfdn-x4-{i}", b, p, i % 4 == 0) for i, (b, p) in enumerate(drawn)
    )


@pytest.mark.parametrize("bicubic", [26.09, 27.4])
def test_names_cover_neither_points_nor_each_other(bicubic):
    panel = pareto_front.Panel("Set14, x4", bicubic, points(12), published=True)
    figure = pareto_front.front_figure([panel], scoring.PROTOCOL)
    renderer = figure.canvas.get_renderer()
    names = [text for axes in figure.axes for text in axes.texts if "rfdn" in text.get_text()]
    boxes = [tuple(text.get_window_extent(renderer).extents) for text in names]
    assert len(boxes) == 12
    frame = figure.axes[0].get_window_extent()
    for i, box in enumerate(boxes):
        assert frame.x0 <= box[0] and box[2] <= frame.x1 and frame.y0 <= box[1] <= frame.y1
        spots = figure.axes[0].transData.transform(panel.spots)
        others = [*boxes[:i], *(label_placement.around(spot, 4) for spot in spots)]
        assert label_placement.overlap(box, np.array(others)) == 0


def test_the_plot_says_what_its_axes_and_markers_mean():
    panel = pareto_front.Panel("set5, x2", 33.67, points(2))
    figure = pareto_front.front_figure([panel, panel], "on luma")
    caption = " ".join(figure.texts[-1].get_text().split())
    assert "MACs x 1024" in caption and "PSNR-Y: on luma." in caption and "2208" not in caption
    assert not figure.legends and "bicubic 33.67 dB" in texts(figure)
    hollow = [line.get_markerfacecolor() == "white" for line in figure.axes[0].lines][:2]
    assert hollow == [True, False] and figure.axes[0].get_xscale() == "log"
    shown = pareto_front.front_figure(
        [pareto_front.Panel("set14", 26.09, points(2), True)], "on luma"
    )
    assert "2208.14839" in shown.texts[-1].get_text()
    assert len(shown.legends[0].get_texts()) == len(pareto_front.PUBLISHED) == 4


def test_points_that_coincide_are_rings_around_each_other():
    at = [(2e9, 27.5), (2e9, 27.5), (3e9, 27.9), (2e9, 27.5001)]
    drawn = tuple(pareto_front.ParetoPoint(f"n{i}", *xy, i == 1) for i, xy in enumerate(at))
    axes = pareto_front.front_figure([pareto_front.Panel("s", 27.3, drawn)], "").axes[0]
    lines = axes.lines[:4]
    sizes = [line.get_markersize() for line in lines]
    assert sizes[0] == sizes[2] < sizes[1] < sizes[3]
    assert lines[0].get_zorder() > lines[1].get_zorder() > lines[3].get_zorder()
    assert sizes[1] - sizes[0] > 2 * lines[1].get_markeredgewidth()


def test_bicubic_is_in_the_same_axes_unless_it_is_far_away():
    near, far = (pareto_front.Panel("s", b, points(3)) for b in (27.5, 20.0))
    assert [len(pareto_front.front_figure([p], "").axes) for p in (near, far)] == [1, 2]


def test_a_folder_of_photographs_gives_its_name_to_the_set():
    folders = ["a/Set5", "Set14/GTmod12", "DIV2K_valid_HR", "b/Set5", "."]
    assert list(photo_sets.named_sets(folders)) == ["a/Set5", "Set14", "DIV2K_valid", "b/Set5", "."]


def test_losses_and_gains_are_words():
    assert tables.beside_bicubic(-1.234) == "1.23 dB below bicubic"
    assert (tables.extreme(0.1), tables.extreme(-0.1)) == ("smallest gain", "largest loss")
