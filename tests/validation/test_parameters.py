"""params.yaml: which values are refused, with which message, and what the stages read."""

import importlib
import re
from pathlib import Path

import fastjsonschema
import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from pydantic import Field

from commands import schema
from stages import check, download, train
from stages.lib.core import parameters
from stages.lib.core.errors import UserError
from stages.lib.core.parameters import PARAMETERS, StageParameters, load
from stages.lib.core.sealed import unseal
from stages.lib.validation.rules import SCHEMA
from tests.conftest import ROOT, STAGES, Project, default_parameters, outs, set_parameters

# Line of params.yaml -> parts of the message.
REFUSED = {
    "lr: -1": ["lr", "-1", "above 0"],
    "lr: fast": ["lr", 'found "fast"', "a number above 0"],
    'lr: "0.01"': ["lr", 'found "0.01"', "a number above 0"],
    f"lr: {10**400}": ["lr", "finite"],
    "augmentation: {shift: 1" + "0" * 400 + "}": ["augmentation", "finite"],
    "loss_args: {label_smoothing: 7}": ["loss_args.label_smoothing", "found 7", "at most 1"],
    "loss_args: {weight: balancd}": ["loss_args.weight", "did you mean `balanced`"],
    "optimizer_args: {betas: [0.9]}": ["optimizer_args.betas", "[0.9]", "2 items"],
    "optimizer_args: {eps: small}": ["optimizer_args.eps", "a number"],
    "optimizer_args: {amsgrad: 1}": ["optimizer_args.amsgrad", "true or false"],
    "lr: .nan": ["lr", "nan", "finite"],
    "lr: 1e999": ["lr", "finite"],
    "lr: 2020-13-45": ["line ", "a timestamp", "expected a number"],
    "source: 2020-01-31": ["line ", "a timestamp", "quotes make it a name"],
    "seed: 4294967296": ["seed", "below 4294967296"],
    "hidden: [" + "8, " * 65 + "]": ["hidden", "at most 64 items"],
    "batch_size: 1" + "0" * 30: ["batch_size", "at most 1000000000"],
    "lr: true": ["lr", "a number"],
    "lr: [0.1]": ["lr", "a number"],
    "dropout: 1.5": ["dropout", "1.5", "below 1"],
    "batch_size: 0": ["batch_size", "0", "a whole number of at least 1"],
    "batch_size: 3.5": ["batch_size", "a whole number"],
    "epochs: null": ["epochs", "null", "a whole number"],
    "patience: 0": ["patience", "at least 1", "or null"],
    "val_fraction: 0.99": ["val_fraction", "0.99", "at most 0.5"],
    "test_fraction: 0": ["test_fraction", "above 0"],
    "image_size: 0": ["image_size", "at least 2"],
    "seed: -1": ["seed", "at least 0"],
    "dataset: mnst": ["dataset", "mnst", "did you mean `mnist`"],
    "dataset: birds": ["dataset", "birds", "mnist-5k, mnist"],
    "activation: ReLU": ["activation", "did you mean `relu`"],
    "activation: [tanh, 3]": ["activation", "a list, each a name such as"],
    "activation: [tanh, sigmid]": ["activation", "sigmid", "did you mean `sigmoid`"],
    "activation: [tanh]": ["activation has 1", "hidden has 2"],
    "hidden: [96, 0]": ["hidden", "at least 1"],
    "hidden: 96": ["hidden", "a list"],
    "arithmetic: natve": ["arithmetic", "did you mean `native`"],
    "precision: bfloat16": [
        "precision",
        "portable arithmetic has no precision but float32",
        "set arithmetic to native",
    ],
    "compile: true": ["compile", "portable arithmetic has no compiled networks", "set arithmetic to native"],
    "optimizer: RMSprop": ["optimizer", "portable arithmetic has no optimizers but Adam, AdamW, SGD", "native"],
    "optimizer_args: {fused: true}": ["optimizer_args", "portable arithmetic has no optimizer_args.fused", "native"],
    "model: swin_t": ["model", "portable arithmetic has no transformers", "set arithmetic to native"],
    "model: mpl": ["model", "did you mean `mlp`"],
    "optimizer: Adma": ["optimizer", "did you mean `Adamax` or `Adam`?"],
    "optimizer_args: {beta: 3}": ["optimizer_args", "beta", "did you mean `betas`"],
    "optimizer_args: {nesterov: true}": ["optimizer_args.nesterov is an option of SGD, Muon: set it to null"],
    "momentum: 0.9": ["momentum", "0.9", "Adam takes no momentum"],
    "storage_dtype: float31": ["storage_dtype", "did you mean `float32`"],
    "schedule: cosin": ["schedule", "did you mean `cosine`"],
    "threads: 0": ["threads", "at least 1"],
    "calibration_bins: 0": ["calibration_bins", "at least 1"],
    "mistakes_shown: many": ["mistakes_shown", "a whole number"],
}


@pytest.mark.parametrize("line", REFUSED)
def test_refuses_a_bad_value(folder: object, line: str) -> None:
    key = line.split(":")[0]
    set_parameters(PARAMETERS, **{key: line.removeprefix(f"{key}:")})
    with pytest.raises(UserError) as refusal:
        check.main()
    text = str(refusal.value)
    assert text.startswith("params.yaml: ")
    assert "\n" not in text
    for part in REFUSED[line]:
        assert part in text


@pytest.mark.parametrize("schedule", [{"schedule": "cosine"}, {"warmup": 0.1}, {"schedule": "one_cycle", "warmup": 0}])
def test_a_schedule_that_an_optimizer_would_ignore_is_refused(folder: object, schedule: dict[str, object]) -> None:
    set_parameters(PARAMETERS, optimizer="Rprop", arithmetic="native", source="photos")
    Path("photos").mkdir()
    check.main()
    set_parameters(PARAMETERS, **schedule)
    with pytest.raises(UserError, match="Rprop has step sizes of its own, and lr is the first: it follows no schedule"):
        check.main()


# Rules across keys, and two values that pydantic converts to the number that they mean.
ONLY_CHECK = {"activation: [tanh]", "optimizer_args: {nesterov: true}", "momentum: 0.9", "lr: true", 'lr: "0.01"'}
ONLY_CHECK |= {line for line, parts in REFUSED.items() if any("portable arithmetic" in part for part in parts)}


@pytest.mark.parametrize("line", [line for line in REFUSED if line not in ONLY_CHECK])
def test_a_stage_by_itself_refuses_a_bad_value_of_its_own(folder: object, line: str) -> None:
    key = line.split(":")[0]
    set_parameters(PARAMETERS, **{key: line.removeprefix(f"{key}:")})
    models = [importlib.import_module(f"stages.{stage}").Parameters for stage in STAGES]
    (model,) = (model for model in models if key in model.model_fields)
    with pytest.raises(UserError, match=rf"^params\.yaml: ({key}|line \d+)[^\n]*$"):
        load(model)


OPTIONS = [None, True, -1, 0, 1, 1.0, 0.5, 181, "", "adam", "balanced", [], [0.9], [0.9, 0.98], [1, 1], [None, 0.1]]
VALUES = [
    *OPTIONS,
    {},
    {"file": "a"},
    {"file": "a", "sha256": "b"},
    {"file": 1, "sha256": "b"},
    "mlp",
    ["relu"],
    [0],
    [8],
]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_refuses_by_itself_what_check_refuses(stage: str) -> None:
    """If it refused more, that would be after DVC has removed its outputs."""
    for key, field in importlib.import_module(f"stages.{stage}").Parameters.model_fields.items():
        if extra := field.json_schema_extra:
            valid = fastjsonschema.compile(extra)
            for value in [*VALUES, *({name: option} for name in extra.get("properties", {}) for option in OPTIONS)]:
                try:
                    expected = valid(value) == value
                except fastjsonschema.JsonSchemaValueException:
                    expected = False
                assert parameters.fits(value, extra) == expected, (key, value)


def test_a_stage_ignores_the_keys_of_others(folder: object) -> None:
    PARAMETERS.write_text(PARAMETERS.read_text().replace("dataset: mnist-5k", "dataset: mnst") + "typo: 1\n")
    assert load(train.Parameters).lr == 0.001


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["found nothing"]),
        ("# only a comment\n", ["found nothing"]),
        ("- lr\n- 0.1\n", ["found a list"]),
        ("lr: [0.1\nepochs: 3\n", ["line 2", "not valid YAML"]),
        ("lr: 0.1\nlr: 0.2\n", ["line 2", 'found duplicate key "lr"']),
        ("? [a, b]\n: 1\n", ["line 1", "not valid YAML", "a key that is not a name"]),
        ("seed: " + "9" * 5000 + "\n", ["not valid YAML"]),
        ("lr: !!python/object/apply:os.system [true]\n", ["line 1", "not valid YAML"]),
        ("lr: !!timestamp abc\n", ["line 1", "not valid YAML"]),
        ("lr: !!float '1:2'\n", ["not valid YAML"]),
        ("lr: &a 0.1\nmomentum: *a\n", ["line 2", "an alias"]),
        ("a: &a [1]\nb: &b [*a, *a]\nc: [*b, *b]\n", ["line 2", "an alias"]),
        ("<<: {lr: 0.1}\n", ["line 1", "a key that is not a name"]),
        ("lr: " + "[" * 1_000_000, ["line 1", "more than 50 levels"]),  # which crash the C parser
        (b"lr: \xff\n", ["not UTF-8"]),
    ],
)
def test_refuses_a_bad_file(folder: object, content: str | bytes, parts: list[str]) -> None:
    PARAMETERS.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as refusal:
        check.main()
    assert "\n" not in str(refusal.value)
    for part in parts:
        assert part in str(refusal.value)


def test_refuses_unknown_and_missing_keys(folder: object) -> None:
    text = PARAMETERS.read_text()
    PARAMETERS.write_text(text + "leraning_rate: 0.1\n")
    with pytest.raises(UserError, match="unknown key `leraning_rate`"):
        check.main()
    PARAMETERS.write_text(text.replace("batch_size:", "batchsize:"))
    with pytest.raises(UserError, match=r"unknown key `batchsize`, did you mean `batch_size`\?"):
        check.main()
    PARAMETERS.write_text("".join(line + "\n" for line in text.splitlines() if not line.startswith("epochs:")))
    with pytest.raises(UserError, match="the key `epochs` is missing"):
        check.main()
    with pytest.raises(UserError, match="the key `epochs` is missing"):
        load(train.Parameters)
    PARAMETERS.unlink()
    with pytest.raises(UserError, match=r"params\.yaml: not found"):
        load(train.Parameters)


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("lr: 1e-05", "lr", 1e-5),  # what DVC writes for -S lr=1e-5
        ("lr: 1E-5", "lr", 1e-5),
        ("lr: 1.5e0", "lr", 1.5),
        ("lr: .5", "lr", 0.5),
        ("seed: 010", "seed", 10),  # as DVC reads it
        ("source: no", "source", "no"),
        ("lr: 1", "lr", 1.0),
        ("activation: relu", "activation", "relu"),
        ("hidden: []", "hidden", []),
        ("patience: null", "patience", None),
    ],
)
def test_reads_a_value(folder: object, line: str, key: str, value: object) -> None:
    if key == "hidden":
        set_parameters(PARAMETERS, activation="relu")
    set_parameters(PARAMETERS, **{key: line.removeprefix(f"{key}:")})
    read = getattr(load(download.Parameters if key == "source" else train.Parameters), key)
    assert read == value
    assert type(read) is type(value)


def test_options_are_those_of_the_optimizer(folder: object) -> None:
    values = parameters.read(PARAMETERS) | {"optimizer": "SGD", "momentum": 0.9, "optimizer_args": {"nesterov": True}}
    PARAMETERS.write_text(yaml.safe_dump(values))
    assert load(train.Parameters).optimizer_args == {"nesterov": True}


def test_options_that_are_off_are_no_options(folder: object) -> None:
    set_parameters(PARAMETERS, augmentation="{shift: 1, mixup: 0}", loss_args="{weight: null, label_smoothing: 0}")
    parameters = load(train.Parameters)
    assert parameters.augmentation == {"shift": 1}
    assert parameters.loss_args == {"label_smoothing": 0}
    assert train.Parameters().augmentation == train.Parameters().loss_args == train.Parameters().optimizer_args == {}


def test_the_schema_is_current() -> None:
    assert unseal((ROOT / SCHEMA).read_text()) == schema.schema(), "run `make schema` and commit the result"


def test_every_key_has_a_comment_and_a_default() -> None:
    text = (ROOT / PARAMETERS).read_text()
    if text == default_parameters():  # whoever has changed a value by hand may have written over a comment
        assert text.startswith(f"# yaml-language-server: $schema={SCHEMA}\n")
        keys = [line for line in text.splitlines() if re.match(r" *\w+:", line)]
        assert all("#" in line for line in keys), "a key without a unit or a meaning"
    properties = schema.schema()["properties"]
    assert parameters.read(ROOT / PARAMETERS).keys() == properties.keys()
    for key, rules in properties.items():
        assert "default" in rules, key
        assert "description" in rules, key


@pytest.mark.parametrize(
    "setting",
    ["lr=1e-05", "augmentation.shift=1", "loss_args.label_smoothing=0.5", "warmup=0.1", "model=cnn", "dropout=0"],
)
def test_setting_a_parameter_changes_one_line(setting: str, tmp_path: Path) -> None:
    """`-S` rewrites the file: in another layout than DVC's, one number would change many lines."""
    path = tmp_path / PARAMETERS
    path.write_text(default_parameters())
    apply_overrides(path, [setting])
    before, after = default_parameters().splitlines(), path.read_text().splitlines()
    ((old, new),) = ((old, new) for old, new in zip(before, after, strict=True) if old != new)
    path_of_key, value = setting.split("=")
    key = path_of_key.split(".")[-1]
    assert old.lstrip().startswith(f"{key}:")
    assert re.fullmatch(rf" *{key}: {value}( +#.*)?", new)


def test_a_parameter_is_missing_in_params_yaml_or_in_the_schema(folder: object) -> None:
    class Parameters(StageParameters):
        mine: int = Field(default=1, description="a new one")

    with pytest.raises(
        UserError, match=r"the key `mine` is missing, .* `params:` in dvc\.yaml, then run `make schema`"
    ):
        load(Parameters)
    PARAMETERS.write_text(PARAMETERS.read_text() + "mine: 1\n")
    with pytest.raises(
        UserError, match=r"unknown key `mine` \(one that is new in the code is known after `make schema`"
    ):
        check.main()


def test_portable_arithmetic_refuses_other_devices(folder: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVICE", "cuda")
    with pytest.raises(UserError, match="DEVICE: found `cuda`, but portable arithmetic computes on the CPU; unset"):
        check.main()
    Path("photos").mkdir()
    set_parameters(PARAMETERS, arithmetic="native", source="photos")
    check.main()


def test_a_source_where_a_stage_writes_is_refused(folder: Path) -> None:
    """Also one around it, and one behind a link."""
    for name in ("data/raw/dataset/photos", "data/raw/photos", ".state/photos", "models"):
        Path(name).mkdir(parents=True)
    Path("link").symlink_to("data/raw/dataset")
    around = ("data/raw", "data", ".", "models", ".state/photos", "models/../data/raw")
    for source in ("data/raw/dataset/photos", "link/photos", "link", *around):
        set_parameters(PARAMETERS, source=source)
        with pytest.raises(UserError, match=r"source: `.*` has to be apart from .*; move your images, for example to"):
            check.main()
    set_parameters(PARAMETERS, source="data/raw/photos")
    check.main()


@pytest.mark.parametrize("name", ["ü", "it's", "a=b", "c#1", "d[1]", "e f", "g,h", "k{1}", "m:n"])
def test_any_source_can_be_given_in_double_quotes(folder: Path, name: str) -> None:
    """As docs/own_data.md says; without them Hydra's grammar takes few characters."""
    Path("photos", name).mkdir(parents=True)
    apply_overrides(PARAMETERS, [f'source="photos/{name}"'])
    assert parameters.read(PARAMETERS)["source"] == f"photos/{name}"
    check.main()


def test_every_folder_that_a_stage_writes_is_known() -> None:
    written = {Path(out) for stage in STAGES for out in outs(stage)}
    assert {str(path.parent if path.suffix else path) for path in written} <= set(check.WRITTEN)


def test_git_sees_a_refused_value_of_the_same_length(project: Project) -> None:
    refused = project.run("dvc", "exp", "run", "-S", "dataset=mnits-5k", fails=True)
    assert "unknown name `mnits-5k`, did you mean `mnist-5k`?" in refused.stderr
    assert project.run("git", "status", "--porcelain").stdout == " M params.yaml\n"
    project.run("git", "checkout", "params.yaml")
    assert "dataset: mnist-5k" in (project.root / "params.yaml").read_text()


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_a_damaged_schema_is_refused(folder: object, content: str) -> None:
    SCHEMA.write_text(content)
    with pytest.raises(UserError, match=r"params\.schema\.json: damaged .*`make schema` writes it again"):
        check.main()


def test_a_refused_value_is_one_line_and_exit_code_1(fresh: Project) -> None:
    fresh.set(lr=-1, dataset="mnst")
    for stage, start in (
        ("check", "check: error: params.yaml: dataset: unknown name `mnst`, did you mean `mnist`"),
        (
            "download",
            "download: error: params.yaml: dataset: does not fit params.schema.json; `python -m stages.check`",
        ),
        ("train", "train: error: params.yaml: lr: Input should be greater than 0"),
    ):
        refused = fresh.stage(stage, fails=True)
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1
        assert refused.stderr.startswith(start)
        assert "Traceback" in fresh.stage(stage, fails=True, PIPELINE_DEBUG="1").stderr
    assert not (fresh.root / "data/raw/dataset").exists()
