"""A page on which to try the model: models/model.onnx + demo/ -> reports/demo/

    make demo          (python -m commands.demo, behind make export)

In:  the exported model; the page's own files in demo/; onnxruntime-web, which `make demo` takes from npm into
     demo/node_modules/ by the checksums in demo/package-lock.json.
Out: reports/demo/, a page for any static file server, which then needs no other: draw, or choose a file, and the model
     answers in the browser.
"""

from stages.lib.core.process import run

import json
import shutil
from pathlib import Path

from commands.export import ONNX, PACKAGES
from commands.lib.backgrounds import on_light
from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import replacing_folder
from stages.lib.model import model_file

PAGE = Path("demo")
RUNTIME = PAGE / "node_modules/onnxruntime-web"
DEMO = Path("reports/demo")
# Under names that every server knows the type of; .mjs and the like some do not.
FILES = {
    **{name: PAGE / name for name in ("index.html", "style.css", "demo.js", "digit.js", "onnxruntime-web.LICENSE")},
    "ort.js": RUNTIME / "dist/ort.wasm.bundle.min.mjs",
    "ort.wasm": RUNTIME / "dist/ort-wasm-simd-threaded.wasm",
    "model.onnx": ONNX,
}


def main() -> None:
    _, model = model_file.load(model_file.MODEL)
    if not model.data.classes:
        raise UserError("the model is a regression; the page shows the probabilities of classes: train a classifier")
    if not RUNTIME.exists():
        raise UserError(f"{RUNTIME}: not there; `make demo` fetches it, with npm")
    refuse_another_model(model.weights_sha256)
    about = {
        "network": model.architecture.model,
        "dataset": model.data.dataset,
        "classes": model.data.classes,
        "shape": model.data.shape,
        "on_light": on_light(model.data),
    }
    with replacing_folder(DEMO) as folder:
        for name, source in FILES.items():
            shutil.copyfile(source, folder / name)
        (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in DEMO.iterdir())
    print(f"{DEMO}: {size / 1e6:.1f} MB; try it: python -m http.server --bind 127.0.0.1 --directory {DEMO}")


def refuse_another_model(weights_sha256: str) -> None:
    """The exported file has to be of the model that the page tells of.

    Raises:
        UserError: it is of another one, damaged, or not there.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # which onnx brings
    except ImportError as error:
        raise UserError(f"onnx: not installed; pip install {' '.join(PACKAGES)}") from error
    if not ONNX.exists():
        raise UserError(f"{ONNX}: not there; run `make export`")
    try:
        about = {entry.key: entry.value for entry in onnx.load(ONNX).metadata_props}
    except DecodeError as error:
        raise UserError(f"{ONNX}: damaged ({reason(error)}); run `make export`") from error
    if about.get("weights_sha256") != weights_sha256:
        raise UserError(f"{ONNX}: of another model than {model_file.MODEL}; run `make export`")


if __name__ == "__main__":
    run(main)
