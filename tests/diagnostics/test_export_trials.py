"""Checks that every form of file is tried, and that failures are reported with their cause."""

import dataclasses

import pytest
import torch

from quantnas.architectures import network
from quantnas.config.run_config import ExportConfig
from quantnas.diagnostics import export_trials
from quantnas.diagnostics.export_trials import Case
from quantnas.errors import UsageError, VerificationError
from quantnas.exporters import onnx_export, verification
from quantnas.exporters.packed_weights import STORAGE
from quantnas.pipeline import extra_formats

CASES = {case.name: case for case in export_trials.CASES}


def test_every_form_of_file_is_tried():
    """A new option, bit width or format must appear in `export_trials.CASES`."""
    options = {field.name for field in dataclasses.fields(ExportConfig)} - {"format"}
    forms = {case.form for case in CASES.values() if case.form.format == "onnx"}
    changed = [
        {o for o in options if getattr(f, o) != getattr(onnx_export.USUAL, o)} for f in forms
    ]
    assert set().union(*changed) == options and all(len(names) <= 1 for names in changed)
    usual = [case for case in CASES.values() if case.form == onnx_export.USUAL]
    assert {case.bits for case in usual} == {*STORAGE}
    assert {case.form.format for case in CASES.values()} == {"onnx", *extra_formats.FORMATS}
    assert len(CASES) == len(export_trials.CASES)


@pytest.mark.parametrize("name", CASES)
def test_every_form_of_file_runs_here(name):
    if name.endswith("tflite"):
        pytest.importorskip("ai_edge_litert")
    state = torch.get_rng_state()
    check = export_trials.tried(CASES[name])
    assert check.topic == name and check.verdict == "ok", check
    assert torch.equal(torch.get_rng_state(), state)
    if CASES[name].form.format == "onnx":
        assert check.finding.startswith("runs; 12 of 12 convolutions in integers, ")
    if name.endswith("qonnx"):
        assert "not run" in check.finding


def test_a_file_that_computes_something_else_is_seen(monkeypatch):
    """A bias that is wrong by a tenth shows in the pixels alone, not in the stored kernels."""
    write = onnx_export.to_onnx

    def altered(net, *rest) -> None:
        name = next(name for name in network.convolutions(net) if "body" in name)
        network.convolutions(net)[name].bias.data.add_(0.1)
        write(net, *rest)
        network.convolutions(net)[name].bias.data.sub_(0.1)

    monkeypatch.setattr(onnx_export, "to_onnx", altered)
    check = export_trials.tried(CASES["8-bit file"])
    assert (check.verdict, check.fatal) == ("problem", True)
    assert "differs from the network" in check.finding and check.remedy == export_trials.REPORT


LOADS = VerificationError(
    "ONNX Runtime 1.20.0 does not load model.onnx: INVALID_GRAPH.", "Update ONNX Runtime."
)


@pytest.mark.parametrize(
    ("name", "error", "verdict", "fatal", "finding", "remedy"),
    [
        ("8-bit file", LOADS, "problem", True, "INVALID_GRAPH.", "Update ONNX Runtime."),
        ("2-bit file", LOADS, "problem", False, "1.20.0", "Update ONNX Runtime."),
        ("--format tflite", UsageError("No LiteRT.", "Get it."), "note", False, "No L", "Get it."),
        ("3-bit file", RuntimeError("odd\n thing."), "problem", False, "odd thing.", "report it"),
        ("8-bit file", OSError(28, "No space"), "problem", True, "No space.", "report it"),
    ],
)
def test_what_does_not_run_is_told_with_its_reason(
    monkeypatch, name, error, verdict, fatal, finding, remedy
):
    def refuse(*arguments):
        raise error

    monkeypatch.setattr(verification, "verify", refuse)
    monkeypatch.setitem(extra_formats.FORMATS, "tflite", refuse)
    check = export_trials.tried(CASES[name])
    assert (check.topic, check.verdict, check.fatal) == (name, verdict, fatal)
    assert finding in check.finding and remedy in check.remedy


def test_what_a_usual_run_writes_is_the_main_job():
    assert {case.name for case in CASES.values() if case.main} == {"8-bit file", "4-bit file"}
    assert not Case("x", 8, ExportConfig(compat=True)).main


def test_a_trial_computes_with_one_thread_and_leaves_the_number_as_it_was(monkeypatch):
    seen, before = [], torch.get_num_threads()

    def refuse(*arguments):
        seen.append(torch.get_num_threads())
        raise RuntimeError("enough")

    monkeypatch.setattr(verification, "verify", refuse)
    torch.set_num_threads(2)
    try:
        assert export_trials.tried(CASES["8-bit file"]).verdict == "problem"
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
