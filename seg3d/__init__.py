"""Train, apply and audit medical image segmentation models, bit for bit reproducibly.

The verbs of the command line are functions of the same names; they are imported when first used, because torch is.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "audit",
    "check",
    "compare",
    "convert",
    "demo",
    "diff",
    "evaluate",
    "figure",
    "plan",
    "predict",
    "prepare",
    "report",
    "resume",
    "serve",
    "train",
    "verify",
    "view",
]

if TYPE_CHECKING:
    from seg3d.serving.server import serve
    from seg3d.verbs.audit import audit
    from seg3d.verbs.check import check
    from seg3d.verbs.compare import compare
    from seg3d.verbs.convert import convert
    from seg3d.verbs.demo import demo
    from seg3d.verbs.evaluate import evaluate
    from seg3d.verbs.figure import figure
    from seg3d.verbs.plan import plan
    from seg3d.verbs.predict import predict
    from seg3d.verbs.prepare import prepare
    from seg3d.verbs.report import report
    from seg3d.verbs.resume import resume
    from seg3d.verbs.train import train
    from seg3d.verbs.verify import diff, verify
    from seg3d.verbs.view import view


# verbs that are not in the module of their name
_MODULES = {"diff": "verbs.verify", "serve": "serving.server"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"seg3d.{_MODULES.get(name, f'verbs.{name}')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
