"""`python -m ml predict`, from a folder of DICOM to files."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
import typer.core
import typer.main
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from rich.console import Console

from ml import cli, progress, provenance
from ml.bundle import Bundle, write_bundle
from ml.evaluation.records import read_records
from ml.training.compact import TEST_SEEDS_FROM, CompactRun
from tests.ml.data.conftest import WriteSeries, write_series
from tests.ml.data.disk import fail_to_read, write_dicom

__all__ = ["write_series"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a command line."""
    monkeypatch.setattr("sys.argv", ["ml", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


def test_a_figure_names_the_commit_that_its_program_was_started_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though another one is checked out, and files are changed, while the program runs."""
    provenance.present_commit.cache_clear()
    tree = {"rev-parse": "aaaaaaaaaaaa", "status": ""}
    monkeypatch.setattr(provenance, "_git", lambda word, *_: tree[word])
    monkeypatch.setattr(cli, "app", lambda: tree.update({"rev-parse": "bbbbbbbbbbbb", "status": " M ml/cli.py"}))
    cli.main()
    assert tree["rev-parse"] == "bbbbbbbbbbbb"
    assert provenance.present_commit() == "aaaaaaaaaaaa"
    provenance.present_commit.cache_clear()


def test_predict_writes_the_files_of_its_contract(
    write_series: WriteSeries,
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """prediction.json and prob.npz, slices named by their SOP Instance UIDs; every slice is told of in the end."""
    write_bundle(tmp_path / "tiny", tiny_bundle.config, weights=tiny_bundle.weights, metrics={}, card="")
    folder = write_series()[0].parent
    (folder / "README.txt").write_text("beside the images")
    out = tmp_path / "out"
    monkeypatch.setattr(progress, "errors", Console(stderr=True, force_terminal=False))
    assert run(monkeypatch, "predict", str(folder), "--out", str(out), "--bundle", str(tmp_path / "tiny")) == 0
    assert "analysing: 10 of 10" in capsys.readouterr().err
    answer = json.loads((out / "prediction.json").read_text())
    with np.load(out / "prob.npz") as file:
        saved = dict(file)
    assert saved["prob"].shape == (10, 64, 64)
    assert list(answer["slice_scores"]) == saved["sop_instance_uids"].tolist()
    assert answer["bundle"]["name"] == "tiny"
    assert 0 <= answer["exam_score"] <= 1
    assert answer["hemorrhage_ml"] >= 0
    assert (answer["hemorrhage_ml"] > 0) == answer["exam_positive"]
    assert saved["prob"].dtype == np.float32
    assert answer["series"]["reason"] == "the only series"


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_images_give_the_same_answer(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str
) -> None:
    """Of a study with several series the plain one is read and named; the answer is that of its raw pixels."""
    write_bundle(tmp_path / "tiny", tiny_bundle.config, weights=tiny_bundle.weights, metrics={}, card="")

    def compress(_: int, ds: Dataset) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            ds.compress(syntax, generate_instance_uid=False)

    def bone(_: int, ds: Dataset) -> None:
        ds.SeriesDescription = "BONE"

    write_dicom(tmp_path / "raw", series="1.2.1")
    write_dicom(tmp_path / "study" / "plain", series="1.2.1", change=compress)
    write_dicom(tmp_path / "study" / "bone", series="1.2.2", change=bone)
    answers = []
    for folder in ("raw", "study"):
        out = tmp_path / f"out-{folder}"
        arguments = ("predict", str(tmp_path / folder), "--out", str(out), "--bundle", str(tmp_path / "tiny"))
        assert run(monkeypatch, *arguments, "--engine", "torch") == 0
        answers.append(json.loads((out / "prediction.json").read_text()))
        with np.load(out / "prob.npz") as saved:
            answers[-1]["prob"] = saved["prob"].tolist()
    raw, study = answers
    assert raw["series"]["left_out"] == []
    assert study["series"]["series_instance_uid"] == "1.2.1"
    assert [one["code"] for one in study["series"]["left_out"]] == ["BONE_KERNEL"]
    assert {**raw, "series": None} == {**study, "series": None}


def test_images_that_cannot_be_analysed_exit_with_3_and_a_code(
    write_series: WriteSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the node's demo does; nothing is written."""
    folder = write_series([0.0])[0].parent
    assert run(monkeypatch, "predict", str(folder), "--out", str(tmp_path / "out")) == 3
    assert "TOO_FEW_SLICES" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_earlier_answer_does_not_stand_for_an_exam_that_was_refused(
    write_series: WriteSeries, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the folder afterwards is of this exam or not there, as with the node's demo."""
    write_bundle(tmp_path / "tiny", tiny_bundle.config, weights=tiny_bundle.weights, metrics={}, card="")
    whole, short = write_series()[0].parent, write_series([0.0])[0].parent
    out = tmp_path / "out"
    arguments = ("--out", str(out), "--bundle", str(tmp_path / "tiny"))
    assert run(monkeypatch, "predict", str(whole), *arguments) == 0
    assert sorted(path.name for path in out.iterdir()) == ["prediction.json", "prob.npz"]
    assert run(monkeypatch, "predict", str(short), *arguments) == 3
    assert list(out.iterdir()) == []


def test_a_bundle_that_is_none_exits_with_1(
    write_series: WriteSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, no stack trace."""
    folder = write_series()[0].parent
    out = str(tmp_path / "out")
    assert run(monkeypatch, "predict", str(folder), "--out", out, "--bundle", str(tmp_path / "none")) == 1
    assert "BUNDLE_UNUSABLE" in capsys.readouterr().err


def test_evaluate_writes_records_that_name_their_bundle(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Digest, commit and command stand beside the answers; a second run finds them all."""
    bundle = write_bundle(tmp_path / "tiny", tiny_bundle.config, weights=tiny_bundle.weights, metrics={}, card="")
    out = tmp_path / "study" / "first" / "test"
    arguments = ("evaluate", str(tmp_path / "tiny"), "phantom", "--out", str(out), "--exams", "2", "--matrix", "128")
    assert run(monkeypatch, *arguments, "--workers", "0") == 0
    records = read_records(out)
    assert records.missing == 0
    assert records.origin.model == "first"
    assert records.origin.digest == bundle.identity.digest
    assert records.origin.command == f"python -m ml {' '.join(arguments)} --workers 0"
    assert [one.bleeding for one in records.records] == [True, False]
    assert "2 exams, 1 with blood" in capsys.readouterr().out
    assert run(monkeypatch, *arguments) == 0
    assert run(monkeypatch, *arguments, "--exams", "3") == 1
    told = capsys.readouterr().err
    assert "EVALUATION_STOPPED" in told
    assert f"on phantom:B:{TEST_SEEDS_FROM}+2@128, not of" in told, ":B: is no emoji"


@pytest.mark.parametrize(
    ("options", "hint"), [(("--institution", "b"), "A, B, any, pediatric"), (("--matrix", "300"), "a multiple of 128")]
)
def test_simulated_exams_that_there_are_not_are_wrong_usage(
    options: tuple[str, str],
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One sentence, and nothing is written: the folder would belong to records that cannot be made."""
    out = tmp_path / "study" / "first" / "test"
    assert run(monkeypatch, "evaluate", "default", "phantom", "--out", str(out), *options) == 2
    assert hint in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_readings_of_real_exams_are_not_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table 4 would print them as what experts drew."""
    out = tmp_path / "study" / "student" / "test"
    arguments = ("evaluate", "default", str(tmp_path), "--images", str(tmp_path), "--out", str(out), "--readings", "2")
    assert run(monkeypatch, *arguments) == 1
    assert "test-reading-2" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_tables_of_a_folder_that_is_no_study_exit_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And say what is missing."""
    assert run(monkeypatch, "tables", str(tmp_path)) == 1
    assert "study.json" in capsys.readouterr().err


def test_prepare_says_what_it_took_and_exits_with_3_for_damage(
    write_series: WriteSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 when everything could be read, 1 for the wrong folder, 2 for an unknown kind."""
    paths = write_series([z * 10.0 for z in range(12)], thickness_mm=10.0)
    root, out = paths[0].parent, tmp_path / "out"
    arguments = ("prepare", "folder", str(root), "--out", str(out), "--workers", "0")
    assert run(monkeypatch, *arguments) == 0
    assert "1 exams prepared, 0 were there" in capsys.readouterr().out
    (root / "broken.dcm").write_bytes(b"")
    assert run(monkeypatch, *arguments, "--rescan") == 3
    printed = capsys.readouterr()
    assert "0 exams prepared, 1 were there" in printed.out
    assert "unreadable.csv" in printed.err
    assert run(monkeypatch, "prepare", "rsna", str(root), "--out", str(tmp_path / "rsna")) == 1
    assert "stage_2_train.csv" in capsys.readouterr().err
    assert run(monkeypatch, "prepare", "rsnb", str(root), "--out", str(out)) == 2


def test_an_error_is_one_line_with_the_path_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However long it is; brackets are no markup."""
    folder = tmp_path / "[old] heads" / ("a" * 60)
    folder.mkdir(parents=True)
    assert run(monkeypatch, "prepare", "rsna", str(folder), "--out", str(tmp_path / "out")) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("DATA_UNUSABLE")]
    assert told == [
        f"DATA_UNUSABLE: {folder} has no stage_2_train.csv: is this the folder of that data set? See docs/data.md"
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--device", "cuda"), "PyTorch finds no device cuda on this machine; it finds cpu"),
        (("--engine", "torch-half"), "engine torch-half does not run on cpu; auto, "),
    ],
)
def test_a_device_or_engine_that_is_not_there_exits_with_1(
    options: tuple[str, ...],
    why: str,
    write_series: WriteSeries,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In one line; a study does not find it out after its trainings."""
    predict = ("predict", str(write_series()[0].parent), "--out", str(tmp_path / "out"))
    for command in (predict, ("study", "--out", str(tmp_path / "study"))):
        assert run(monkeypatch, *command, *options) == 1
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"DEVICE_UNUSABLE: {why}")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("name", ["slice.dcm", "slice"])
def test_a_file_that_cannot_be_read_is_one_line_and_no_refusal(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever its name: nothing was found out about the exam."""
    path = write_dicom(tmp_path / "series", series="1.2.3")[0].with_name(name)
    fail_to_read(path)
    assert run(monkeypatch, "predict", str(path.parent), "--out", str(tmp_path / "out")) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"Input/output error: {path}"


@pytest.mark.parametrize("parts", [["train=80%"], ["train=nan"], ["train=0"], ["a=1", "a=2"], ["../a=1"], ["train"]])
def test_parts_that_make_no_sense_are_refused(
    parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As options, and nothing is written; a name that is given twice would take the first one's share."""
    options = [word for part in parts for word in ("--part", part)]
    assert run(monkeypatch, "split", str(tmp_path), "--out", str(tmp_path / "parts"), *options) == 2
    assert "Invalid value" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_no_study_trains_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing is begun; the names that there are stand in the message. "All" is the baseline under another title."""
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("teacher", "contrast-all"):
        assert run(monkeypatch, "study", "--out", str(tmp_path / "study"), "--train", name) == 2
        said = capfd.readouterr().err
        assert "--train takes baseline, student, no-ranker, slice-oracle" in said
        assert f"not {name}" in said
    assert list(tmp_path.iterdir()) == []


def test_every_command_and_option_has_help() -> None:
    """A command line without help is a closed door."""
    group = typer.main.get_command(cli.app)
    assert isinstance(group, typer.core.TyperGroup)
    assert set(group.commands) >= {"evaluate", "predict", "tables", "train-compact"}
    for command in group.commands.values():
        assert command.help
        assert [one.name for one in command.params if not getattr(one, "help", None)] == []


def test_every_count_of_train_compact_reaches_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of exam that is asked for and forgotten would be missed by nobody."""
    asked = {"exams": 3, "layers": 4, "masses": 5, "craniectomies": 6, "children": 7, "moving": 8, "painted": 9}
    asked |= {"first_seed": 10, "rounds": 11, "steps": 12, "stop_at": 13, "batch": 14, "seed": 15}
    runs: list[CompactRun] = []
    monkeypatch.setattr(cli, "train_compact", lambda run, _stage: runs.append(run))
    options = [word for name, count in asked.items() for word in (f"--{name.replace('_', '-')}", str(count))]
    assert run(monkeypatch, "train-compact", "--out", str(tmp_path), "--no-finish", *options) == 0
    assert {name: getattr(runs[0], name) for name in asked} == asked
