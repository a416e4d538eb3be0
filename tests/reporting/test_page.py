"""Checks of the HTML page: content, self-containment, errors, and behaviour in a browser."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from quantnas.cli.main import main
from quantnas.config import search_space
from quantnas.config.files import to_json
from quantnas.config.search_space import SearchSpace
from quantnas.data import image_files
from quantnas.errors import DataError
from quantnas.evaluation.layer_damage import FILE, Damages, Measured
from quantnas.reporting import html_data, html_page
from quantnas.reporting.photo_slider import FOLDER, ComparedCrop, ComparedCrops, Version
from quantnas.reporting.plots import pareto_front
from quantnas.runs import run_folder
from quantnas.runs.run_folder import Run

# Artificial run folders


SETS = {"held-out": ("waves", "dunes"), "set5": ("baby",)}


def _score(image: str, psnr: float) -> dict[str, Any]:
    return {
        "image": image, "psnr": psnr, "ssim": 0.9, "bicubic_psnr": 30.0, "bicubic_ssim": 0.85
    }  # fmt: skip


def _evaluated(psnr: float, scale: int, sets: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    found = {
        name: {
            "file": [_score(image, psnr) for image in photographs],
            "mean": _score("mean", psnr),
            "float": [_score(image, psnr + 0.1) for image in photographs],
            "float_mean": _score("mean", psnr + 0.1),
        }
        for name, photographs in sets.items()
    }
    return {"protocol": "uint8", "scale": scale, "sets": found}


def _exported(bitops: float) -> dict[str, Any]:
    layers = [
        {"name": name, "op": "conv3x3", "shape": [8, 8, 3, 3], "weight_bits": 4, "act_bits": 8,
         "area": "low", "macs": 1000, "parameters": 10}
        for name in ("head", "cell0_body0.0", "cell0_body0.1", "upsample")
    ]  # fmt: skip
    keys = ("LR 32x32", "LR 256x256", "1280x720 output")
    cost = {"parameters": 1234, "weight_bytes": 700, "layers": layers}
    cost |= {"macs": dict.fromkeys(keys, 10**7), "bitops": dict.fromkeys(keys, bitops)}
    found = {"integer_convolutions": 4, "convolutions": 4, "images": 3, "max_steps": 1}
    found |= {"share_different": 0.001, "psnr": 70.0, "sensitivity": None}
    return {"bytes": int(bitops / 1e5), "sha256": "0" * 64, "cost": cost, "verification": found}


def _metrics(where: SearchSpace) -> str:
    slots = {"cell0_body0": 9, "upsample": 4}
    rows = [
        {"phase": "search", "step": step, "loss": 0.1, "psnr": None if step == 2 else 30.0,
         "entropy": 0.5, "decided": 0.1, "bitops": 5e8, "decided_bitops": 4e8,
         "probabilities": {name: [1 / n] * n for name, n in slots.items()},
         "check": {"epoch": step, "psnr": 29.0} if step % 2 else None}
        for step in range(1, 5)
    ]  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in rows)


def finished(
    folder: Path, where: SearchSpace, psnr: float = 31.0, bitops: float = 5e8, scale: int = 2,
    sets: dict[str, tuple[str, ...]] | None = None, seed: int = 0,
) -> Run:  # fmt: skip
    """Return a run with results of all steps."""
    run = Run(folder)
    config = {"space": "tiny", "seed": seed, "search": {"warmup_epochs": 1, "steps_per_epoch": 1}}
    run.path("config.yaml").write_text(yaml.safe_dump(config))
    run.path("space.yaml").write_text(search_space.to_yaml(where))
    run.path("genotype.json").write_text("{}")
    environment = {"command": ["quantnas", "run", "tiny"], "versions": {"onnxruntime": "1.32.0"}}
    run.path("env.json").write_text(json.dumps(environment))
    run.path("metrics.jsonl").write_text(_metrics(where))
    rows = (
        Measured("head", 4, 8, 1e-6, 2e-6, 1e-6),
        Measured("cell0_body0", 4, 8, None, 3e-5, 2e-5),
    )
    run.path(FILE).write_text(to_json(Damages(2, 32, 32, rows, None, None)))
    _crops(run)
    image_files.write(run.path("plots/architecture.png"), np.zeros((30, 40, 3), np.uint8))
    results = {
        "search": {"seconds": 3.0, "kept": "last", "best": None},
        "train": {"seconds": 4.0},
        "quantize": {"seconds": 5.0, "bits": 4, "act_bits": 8},
        "export": _exported(bitops),
        "evaluate": _evaluated(psnr, scale, SETS if sets is None else sets),
        "report": {},
    }
    for step in run_folder.STEPS:
        run.finish(step, results[step])
    return run


def _crops(run: Run) -> None:
    """Write crops of two photographs, 40 x 30 pixels, with a brightness per version."""
    views = []
    for k, name in enumerate(("waves", "dunes")):
        versions = []
        for i, version in enumerate(("bicubic", "float", "quantized", "original")):
            file = f"{k}-{i}.webp"
            image_files.write(
                run.path(f"{FOLDER}/{file}"), np.full((30, 40, 3), 20 + 50 * i + k, np.uint8)
            )
            versions.append(Version(version, file, None if i == 3 else 30.0 + i))
        views.append(ComparedCrop(name, 40, 30, tuple(versions)))
    run.path(f"{FOLDER}/crops.json").write_text(to_json(ComparedCrops(2, tuple(views))))


def sweep(folder: Path, where: SearchSpace) -> Path:
    """Return a sweep with three finished points, two unfinished ones and a failed one."""
    for i in range(3):
        finished(folder / "points" / f"p{i}", where, 31.0 + i % 2, 1e8 * 4**i)
    begun = Run(folder / "points" / "begun")
    begun.path("config.yaml").write_text("space: tiny\n")
    begun.finish("search", {"seconds": 1.0})
    (folder / "points" / "waiting").mkdir()
    (folder / "failed").mkdir()
    cause = {"cause": "Too few BitOps <b>here</b>.", "remedy": "Give more."}
    (folder / "failed" / "small.json").write_text(json.dumps(cause))
    (folder / "sweep.yaml").write_text("points: {}\n")
    return folder


# The page as text


class Parsed(HTMLParser):
    """Tags with their attributes, text outside of style and script, and the embedded JSON."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.json, self.inside = "", "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag + str(dict(attrs).get("id", "")) if tag in ("style", "script") else ""

    def handle_endtag(self, tag):
        self.inside = "" if tag in ("style", "script") else self.inside

    def handle_data(self, data):
        if self.inside == "scriptdata":
            self.json += data
        elif not self.inside:
            self.text += data

    def values(self, tag, attribute):
        return [attrs[attribute] for name, attrs in self.tags if name == tag and attribute in attrs]


def made(folders: list[Path]) -> str:
    source = html_data.find(folders)
    return html_page.html(source, [html_data.collect(name, run) for name, run in source.done])


def data_of(text: str) -> dict:
    return json.loads(Parsed(text).json)


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def test_a_page_of_one_run_has_all_its_parts(tmp_path, tiny):
    text = made([finished(tmp_path / "mine", tiny).folder])
    found = Parsed(text)
    assert found.values("article", "id") == ["run-0"]
    assert "table" in dict(found.tags) and "All runs" not in found.text
    for words in (
        "mine", "held-out", "set5, mean of 1", "31.00 / 0.9000", "1.00 dB above bicubic",
        "quantnas run tiny", "config.yaml", "4 of 4 convolutions", "w" "4", "cell0_body0",
        "onnxruntime", "1.32.0",
    ):  # fmt: skip
        assert words in text, words
    (run,) = data_of(text)["runs"]
    assert run["bitops"] == 5e8 and run["bytes"] == 5000
    assert [view["name"] for view in run["views"]] == ["waves", "dunes"]
    for part in ("Damage by layer", "Curves of the search", "Probabilities of operations"):
        assert f'aria-label="{part}' in text, part
    told = "head, weights 4 bits, inputs 8 bits\npredicted 1.0e-06, measured 2.0e-06"
    assert told in found.text and "cell0_body0, weights 4 bits" in found.text


def charts(text: str) -> dict[str, str]:
    """Return the svg elements of a page by their accessible names."""
    found = re.findall(r'(?s)<svg [^>]*aria-label="([^"]*)".*?</svg>', text)
    elements = re.findall(r"(?s)<svg .*?</svg>", text)
    assert len(found) == len(elements)
    return dict(zip(found, elements, strict=True))


def test_every_set_and_cost_has_a_chart_with_every_run(tmp_path, tiny):
    text = made([sweep(tmp_path / "s", tiny)])
    fronts = {name: svg for name, svg in charts(text).items() if name.startswith("PSNR over")}
    costs, sets = ("GBitOps at LR 32x32", "file size, kB"), ("held-out, x2 (2)", "set5, x2 (1)")
    assert list(fronts) == [f"PSNR over {cost} on {name}" for name in sets for cost in costs]
    for svg in fronts.values():
        assert Parsed(svg).values("a", "href") == ["#run-0", "#run-1", "#run-2"]
        assert "p1\n32.00 dB (bicubic 30.00 dB, float 32.10 dB)\n0.4 GBitOps, 4 kB" in svg
        assert svg.count(">bicubic 30.00 dB<") == 1
    hidden = [dict(attrs) for tag, attrs in Parsed(text).tags if "data-axis" in dict(attrs)]
    assert ["hidden" in attrs for attrs in hidden] == [False, True, True, True]


def test_identifiers_are_unique_and_references_lead_somewhere(tmp_path, tiny):
    text = made([sweep(tmp_path / "s", tiny)])
    names = [attrs["id"] for _, attrs in Parsed(text).tags if "id" in attrs]
    assert text.count("<svg ") == 4 + 3 * 3 and len(names) == len(set(names))
    referred = re.findall(r'(?:url\(|href=")#([\w.-]+)', text)
    assert set(referred) <= set(names) and any(name.startswith("run-2-damage") for name in referred)


def test_charts_have_the_colours_of_the_page_and_no_rules_for_it(tmp_path, tiny):
    for name, svg in charts(made([finished(tmp_path / "mine", tiny).folder])).items():
        assert "<style" not in svg and "font-family" not in svg and "var(--ink)" in svg, name
        assert not re.findall(r"#[0-9a-f]{6}\b", svg), name


def test_nothing_is_loaded_from_anywhere(tmp_path, tiny):
    text = made([sweep(tmp_path / "s", tiny)])
    found = Parsed(text)
    loads = [*found.values("img", "src"), *found.values("script", "src")]
    loads += found.values("link", "href")
    assert loads and all(value.startswith("data:") for value in loads)
    assert all(value.startswith("#") for value in found.values("a", "href"))
    assert not re.findall(r"url\((?!#)|@import|fetch\(|XMLHttpRequest|importScripts", text)
    namespaces = {"http://www.w3.org/2000/svg"}
    assert set(re.findall(r"https?://[^\s\"'<)]+", text)) <= namespaces
    policy = next(attrs["content"] for tag, attrs in found.tags if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'")


def test_hostile_names_stay_text(tmp_path, tiny):
    evil = "<img src=x onerror=alert(1)>&</script><!--"
    folder = tmp_path / "<script>alert(1)<" / 'a"b'
    run = finished(folder, tiny, sets={evil: ("</script><script>alert(2)</script>",)})
    text = made([run.folder, finished(tmp_path / "other", tiny).folder])
    found = Parsed(text)
    assert found.values("img", "onerror") == [] and evil in found.text
    assert sum(tag == "script" for tag, _ in found.tags) == 2
    assert "</script>" not in found.json and "<" not in found.json
    assert data_of(text)["sets"][0]["label"].startswith(evil)


def test_several_runs_share_what_is_the_same(tmp_path, tiny):
    one, two = (
        finished(tmp_path / name, tiny, bitops=b).folder for name, b in (("a", 1e8), ("b", 2e8))
    )
    data = data_of(made([one, two, one]))
    assert [run["name"] for run in data["runs"]] == ["a", "b"]
    assert len(data["images"]) == 8
    assert [group["label"] for group in data["sets"]] == ["held-out, x2 (2)", "set5, x2 (1)"]


def test_sets_are_the_same_only_with_the_same_photographs(tmp_path, tiny):
    folders = [
        finished(tmp_path / "a", tiny).folder,
        finished(tmp_path / "b", tiny, sets={"held-out": ("waves", "forest")}).folder,
        finished(tmp_path / "c", tiny, scale=4, sets=SETS).folder,
    ]
    data = data_of(made(folders))
    labels = [group["label"] for group in data["sets"]]
    assert labels[0] == "held-out, x2 (2)" and labels[2] == "held-out, x2 (2), others 2"
    assert labels[3:] == ["held-out, x4 (2)", "set5, x4 (1)"]
    assert [list(run["sets"]) for run in data["runs"]] == [["0", "1"], ["2"], ["3", "4"]]


@pytest.mark.parametrize(
    ("name", "scale", "beside"), [("Set14", 4, True), ("Set14", 2, False), ("set5", 4, False)]
)
def test_published_points_stand_beside_what_they_belong_to(tmp_path, tiny, name, scale, beside):
    run = finished(tmp_path / "a", tiny, scale=scale, sets={name: ("baboon",)})
    text = made([run.folder])
    assert [group["published"] for group in data_of(text)["sets"]] == [beside]
    assert (pareto_front.SOURCE in Parsed(text).text) == beside
    assert ["published: noise" in svg for svg in charts(text).values()].count(True) == beside


def test_runs_of_one_name_are_told_apart(tmp_path, tiny):
    folders = [finished(tmp_path / part / "mine", tiny).folder for part in ("x", "y")]
    assert [name for name, _ in html_data.find(folders).done] == ["x/mine", "y/mine"]


def test_a_point_that_lies_on_another_disk_is_shown(tmp_path, tiny):
    folder = sweep(tmp_path / "s", tiny)
    moved = (folder / "points" / "p1").rename(tmp_path / "p1")
    (folder / "points" / "p1").symlink_to(moved)
    assert [name for name, _ in html_data.find([folder]).done] == ["p0", "p1", "p2"]


def test_a_sweep_lists_what_is_unfinished_and_what_failed(tmp_path, tiny):
    text = made([sweep(tmp_path / "s", tiny)])
    found = Parsed(text)
    words = " ".join(found.text.split())
    assert "3 finished runs, 2 unfinished, 1 failed." in words
    assert "begun (next step: train), waiting (next step: search)." in words
    assert "Too few BitOps <b>here</b>. Give more." in words
    assert found.values("article", "id") == ["run-0", "run-1", "run-2"]


def test_runs_that_differ_in_their_seed_alone_have_means(tmp_path, tiny):
    some = {"held-out": SETS["held-out"]}
    folders = [
        finished(tmp_path / f"w4-seed{seed}", tiny, psnr, 1e8 * (seed + 1), 2, sets, seed).folder
        for seed, psnr, sets in ((0, 31.0, SETS), (1, 31.4, some), (2, 31.2, some))
    ]
    again = finished(tmp_path / "again", tiny, 40.0).folder  # seed 0 once more
    cells = ("3", "31.20 ± 0.20", "-", "0.200 ± 0.100", "2.0 ± 1.0")
    row = '<th scope="row">w4</th>' + "".join(f"<td>{cell}</td>" for cell in cells)
    assert row in made([*folders, again])
    assert "Means over seeds" not in Parsed(made([folders[0], again])).text


def test_what_an_earlier_version_did_not_keep_is_left_out(tmp_path, tiny):
    run = finished(tmp_path / "old", tiny)
    for name in (
        "damage_measured.json",
        "crops/crops.json",
        "metrics.jsonl",
        "plots/architecture.png",
    ):
        (run.folder / name).unlink()
    text = made([run.folder])
    assert "No crops of photographs are kept" in text and "Not measured in this run" in text
    (shown,) = data_of(text)["runs"]
    assert shown["views"] == []
    assert all(name.startswith("PSNR over") for name in charts(text))


def test_a_page_of_one_run_stays_small(tmp_path, tiny, monkeypatch):
    run = finished(tmp_path / "mine", tiny)
    assert len(made([run.folder]).encode()) < 100_000
    monkeypatch.setattr(html_page, "ONE", 1)
    (shown,) = data_of(made([run.folder]))["runs"]
    assert len(shown["views"]) == 1


def test_what_is_no_run_is_an_error(tmp_path, tiny):
    with pytest.raises(DataError, match="not a run folder"):
        html_data.find([tmp_path])
    empty = sweep(tmp_path / "s", tiny)
    for path in (empty / "points").glob("p*/steps/report.json"):
        path.unlink()
    with pytest.raises(DataError, match="there is nothing to show"):
        html_data.find([empty])


def test_a_damaged_note_of_a_failed_point_is_named_too(tmp_path, tiny):
    folder = sweep(tmp_path / "s", tiny)
    (folder / "failed" / "torn.json").write_text('{"cause": ')
    assert "unknown" in html_data.find([folder]).failed[1].cause


def test_the_command_writes_into_the_sweep_and_over_nothing_else(
    tmp_path, tiny, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(html_page, "html", lambda *given: "<html></html>")
    folder = sweep(tmp_path / "s", tiny)
    assert command("report", folder) == 0 and command("report", folder) == 0
    assert f"page: {folder / 'report.html'} (" in capsys.readouterr().out
    one, two = (finished(tmp_path / name, tiny).folder for name in "ab")
    assert command("report", one, two) == 0
    assert (tmp_path / "report.html").is_file()
    assert command("report", one, two) == 2
    assert "exists already" in capsys.readouterr().err
    assert command("report", one, two, "--force") == 0
    assert command("report", one, two, "-o", "both.html") == 0 and Path("both.html").is_file()
    assert command("report", one, two, "-o", tmp_path / "none" / "both.html") == 3
    assert command("report", one, two, "-o", "both.pdf") == 2


def test_commands_make_the_run_again_where_they_can(tmp_path, tiny):
    run = finished(tmp_path / "my run", tiny)
    (shown,) = [html_data.collect(name, r) for name, r in html_data.find([run.folder]).done]
    found = html_page.html_text.commands(Path("runs/my run"), shown.data)
    assert [line for _, line in found] == [
        "quantnas run --config 'runs/my run/config.yaml'", "quantnas run tiny"
    ]  # fmt: skip
    adopted = shown.data | {"train": {"adopted": "theirs.onnx"}}
    assert len(list(html_page.html_text.commands(run.folder, adopted))) == 1


def test_a_run_must_have_been_evaluated(tmp_path, tiny):
    run = finished(tmp_path / "mine", tiny)
    (run.folder / "steps" / "evaluate.json").unlink()
    with pytest.raises(DataError, match="'evaluate' has not finished"):
        html_data.collect("mine", Run(run.folder))


def test_sizes_are_told_in_words():
    assert [html_page.size(n) for n in (1234, 250_000, 2_340_000)] == ["1 kB", "0.2 MB", "2.3 MB"]


# The page in a browser

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


POINTS = "#front .plot:not([hidden]) svg a"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    """Start Chromium without a window; skip where it or its driver is missing."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no chromium with its chromedriver on PATH")
    options = selenium.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture
def opened(browser, tmp_path, tiny) -> Any:
    """Load the page of a sweep in a browser."""
    path = sweep(tmp_path / "s", tiny) / "report.html"
    path.write_text(made([path.parent]), encoding="utf-8")
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    screen(browser, 1400)
    browser.get(path.as_uri())
    return browser


def screen(browser, width: int, dark: bool = False) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    still = {"name": "prefers-reduced-motion", "value": "reduce"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [theme, still]})
    time.sleep(0.2)


def all_of(browser, selector: str) -> list[Any]:
    return browser.find_elements("css selector", selector)


def shown_run(browser) -> list[str]:
    return [a.get_attribute("id") for a in all_of(browser, "article") if a.is_displayed()]


@pytest.mark.slow
def test_nothing_goes_wrong_and_nothing_is_asked_for(opened):
    for button in all_of(opened, "#all-runs tbody button"):
        button.click()
    assert opened.get_log("browser") == []
    messages = [json.loads(row["message"])["message"] for row in opened.get_log("performance")]
    asked = [
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    ]
    assert asked and all(url.startswith(("file:", "data:", "chrome:")) for url in asked)
    assert len([url for url in asked if url.startswith("file:")]) == 1


@pytest.mark.slow
def test_a_point_selects_its_run_by_mouse_and_by_key(opened):
    assert shown_run(opened) == ["run-1"], "the best one on the first set"
    points = all_of(opened, POINTS)
    assert len(points) == 3
    points[0].click()
    assert shown_run(opened) == ["run-0"]
    current = [p.get_dom_attribute("href") for p in all_of(opened, f"{POINTS}[aria-current=true]")]
    assert current == ["#run-0"] and "p0" in all_of(opened, "#chosen")[0].text
    last = points[2]
    opened.execute_script("arguments[0].focus()", last)
    last.send_keys("\ue007")  # the Enter key
    assert shown_run(opened) == ["run-2"]
    focused = opened.execute_script("return document.activeElement.getAttribute('href')")
    assert focused == "#run-2", "the focus stays"


@pytest.mark.slow
def test_the_page_opens_at_its_top_and_points_tell_what_they_are(opened):
    assert opened.execute_script("return scrollY") == 0 and "#" not in opened.current_url
    told = "return arguments[0].querySelector('title').textContent"
    assert opened.execute_script(told, all_of(opened, POINTS)[1]).startswith("p1\n32.00 dB")
    opened.get(f"{opened.current_url}#run-2")
    opened.refresh()
    assert shown_run(opened) == ["run-2"]


@pytest.mark.slow
def test_the_axis_and_the_set_can_be_changed(opened):
    def shown() -> list[str]:
        found = all_of(opened, "#front .plot svg")
        return [svg.get_attribute("aria-label") for svg in found if svg.is_displayed()]

    assert shown() == ["PSNR over GBitOps at LR 32x32 on held-out, x2 (2)"]
    opened.execute_script("document.querySelector('input[value=bytes]').click()")
    assert shown() == ["PSNR over file size, kB on held-out, x2 (2)"]
    all_of(opened, "#set option")[1].click()
    assert shown() == ["PSNR over file size, kB on set5, x2 (1)"]


@pytest.mark.slow
def test_the_divider_and_the_choices_of_versions_work(opened):
    layers = all_of(opened, "article:not([hidden]) .layers")[0]
    at = "return arguments[0].style.getPropertyValue('--at')"
    rail = all_of(opened, "article:not([hidden]) input[type=range]")[0]
    assert opened.execute_script(at, layers) == "50%"
    rail.send_keys("\ue014\ue014")  # the right arrow, twice
    assert opened.execute_script(at, layers) == "51%"
    from selenium.webdriver import ActionChains

    opened.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", layers
    )
    width = layers.size["width"]
    mouse = ActionChains(opened).move_to_element(layers).click_and_hold()
    mouse.move_by_offset(round(width * 0.25), 0).release().perform()
    moved = float(opened.execute_script(at, layers).rstrip("%"))
    assert moved == pytest.approx(75, abs=3) and abs(float(rail.get_property("value")) - moved) < 1
    left = all_of(opened, "article:not([hidden]) img.left")[0]
    before = left.get_attribute("src")
    all_of(opened, "article:not([hidden]) .side-left option")[3].click()
    assert left.get_attribute("src") != before and left.get_attribute("alt") == "waves, original"
    before = left.get_attribute("src")
    all_of(opened, "article:not([hidden]) .photo option")[1].click()
    assert left.get_attribute("src") != before and left.get_attribute("alt") == "dunes, original"
    assert "31.00 dB" in all_of(opened, "article:not([hidden]) .side-right")[0].text
    opened.execute_script(
        "document.querySelector('article:not([hidden]) input[value=\"1\"]').click()"
    )
    assert layers.size["width"] == width / 2
    rendering = opened.execute_script("return getComputedStyle(arguments[0]).imageRendering", left)
    assert rendering == "pixelated"


@pytest.mark.slow
def test_the_table_is_sorted_by_a_click(opened):
    def names() -> list[str]:
        return [row.text for row in all_of(opened, "#all-runs tbody th")]

    column = all_of(opened, "#all-runs thead button")[3]
    column.click()
    column.click()
    assert names()[0] == "p1"
    assert all_of(opened, "#all-runs th[aria-sort=descending]")[0].text.startswith("held-out")
    all_of(opened, "#all-runs thead button")[0].click()
    assert names() == ["p0", "p1", "p2"]
    all_of(opened, "#all-runs tbody button")[2].click()
    assert shown_run(opened) == ["run-2"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_the_screen(opened, width, dark):
    screen(opened, width, dark)
    opened.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    time.sleep(0.2)
    widths = "const d = document.documentElement; return [d.scrollWidth, document.body.scrollWidth]"
    assert max(opened.execute_script(widths)) <= width
    ground = "return getComputedStyle(document.body).backgroundColor"
    assert (opened.execute_script(ground) == "rgb(18, 21, 24)") == dark


@pytest.mark.slow
def test_all_that_can_be_used_has_a_name(opened):
    nameless = """
      return [...document.querySelectorAll("button, select, input, img, a, svg[role]")]
        .filter((e) => e.offsetParent !== null && !(e.ariaLabel || e.alt || e.textContent.trim()
          || e.labels?.[0]?.textContent.trim())).map((e) => e.outerHTML.slice(0, 90))"""
    assert opened.execute_script(nameless) == []
    ids = [e.get_attribute("id") for e in all_of(opened, "[id]")]
    assert len(ids) == len(set(ids))
