"""Build a web page to try the model: models/model.onnx + demo/ -> reports/demo/

    make demo          (make export, then python -m commands.demo)

In:  the exported model; the page's files in demo/; onnxruntime-web, which `make demo` installs from npm into
     demo/node_modules/, with the checksums in demo/package-lock.json.
Out: reports/demo/, a page for any static file server. The user draws or chooses an image file, and the model runs in
     the browser; no other server is contacted.
"""

from stages.lib.core.process import run

import json
import shutil
from pathlib import Path

from commands.export import ONNX, PACKAGES
from commands.lib.backgrounds import trained_on_light
from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import replacing_folder
from stages.lib.model import model_file

PAGE = Path("demo")
RUNTIME = PAGE / "node_modules/onnxruntime-web"
DEMO = Path("reports/demo")
FILES = {name: PAGE / name for name in ("index.html", "style.css", "demo.js", "digit.js", "onnxruntime-web.LICENSE")}
FILES |= {
    "ort.js": RUNTIME / "dist/ort.wasm.bundle.min.mjs",  # some servers do not know the type of .mjs
    "ort.wasm": RUNTIME / "dist/ort-wasm-simd-threaded.wasm",
    "model.onnx": ONNX,
}


def main() -> None:
    _, model = model_file.load(model_file.MODEL)
    if not model.data.classes:
        raise UserError("the model is a regression, but the page shows probabilities of classes: train a classifier")
    if not RUNTIME.exists():
        raise UserError(f"{RUNTIME}: not found; `make demo` installs it with npm")
    check_exported(model.weights_sha256)
    about = {
        "network": model.architecture.model,
        "dataset": model.data.dataset,
        "classes": model.data.classes,
        "shape": model.data.shape,
        "on_light": trained_on_light(model.data),
    }
    with replacing_folder(DEMO) as folder:
        for name, source in FILES.items():
            shutil.copyfile(source, folder / name)
        (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in DEMO.iterdir())
    print(f"{DEMO}: {size / 1e6:.1f} MB; try it: python -m http.server --bind 127.0.0.1 --directory {DEMO}")


def check_exported(weights_sha256: str) -> None:
    """Check that the exported file is of the current model.

    Raises:
        UserError: it is of another one, damaged or missing.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # a dependency of onnx
    except ImportError as error:
        raise UserError(f"onnx: not installed; pip install {' '.join(PACKAGES)}") from error
    if not ONNX.exists():
        raise UserError(f"{ONNX}: not found; run `make export`")
    try:
        about = {entry.key: entry.value for entry in onnx.load(ONNX).metadata_props}
    except DecodeError as error:
        raise UserError(f"{ONNX}: damaged ({reason(error)}); run `make export`") from error
    if about.get("weights_sha256") != weights_sha256:
        raise UserError(f"{ONNX}: of another model than {model_file.MODEL}; run `make export`")


if __name__ == "__main__":
    run(main)
