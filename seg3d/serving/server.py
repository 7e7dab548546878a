"""``seg3d serve``: a trained model as a web app."""

from __future__ import annotations

import importlib.util
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from seg3d.errors import ConfigError
from seg3d.serving.settings import Limits, is_loopback, read_token, refuse_open_address

_NEEDED = ("fastapi", "uvicorn", "python_multipart")


def serve(
    runs: Sequence[Path | str] | Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    limits: Limits | None = None,
    overrides: Sequence[str] = (),
    scratch: Path | None = None,
    tell: Callable[[str], None] = print,
) -> None:
    """Serve the model of one run, or the mean of several, until it is interrupted.

    Args:
        runs: Run folders; an audit folder stands for its finished runs.
        host: Address to listen on. Any but this machine's own demands a token.
        port: Port to listen on; 0 for a free one.
        token_file: File with the token that clients must show; else the variable ``SEG3D_TOKEN``.
        limits: What clients may ask for.
        overrides: ``path=value`` settings on top of each run's config.
        scratch: Where uploads and results lie while they are kept; the system's temporary folder if ``None``.
        tell: Called with lines for the log.

    Raises:
        ConfigError: The libraries of the extra ``serve`` are absent, or the address or token cannot be used.
        RunError: A run is not finished or damaged, or they cannot be averaged.
    """
    _refuse_missing_libraries()
    token = read_token(token_file)
    refuse_open_address(host, token)
    with _ended_by_signals(), _listening(host, port) as listener:
        _run(listener, host, token, [runs] if isinstance(runs, (Path, str)) else runs, overrides, limits, scratch, tell)


def _run(
    listener: socket.socket,
    host: str,
    token: str | None,
    runs: Sequence[Path | str],
    overrides: Sequence[str],
    limits: Limits | None,
    scratch: Path | None,
    tell: Callable[[str], None],
) -> None:
    import SimpleITK as sitk
    import uvicorn

    from seg3d.serving.access import Access
    from seg3d.serving.app import create_app
    from seg3d.serving.model import load_model
    from seg3d.serving.storage import private_folder

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # they would tell file names and headers
    model = load_model(runs, overrides, tell)
    port = listener.getsockname()[1]
    hosts = frozenset({"127.0.0.1", "localhost", "[::1]", host}) if is_loopback(host) else None
    with private_folder(scratch) as folder:
        app = create_app(model, folder, limits, Access(token, hosts), tell)
        tell(f"{model.card['id']} on http://{f'[{host}]' if ':' in host else host}:{port}")
        tell(model.card["disclaimer"])
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            log_config=None,
            log_level="critical",  # its messages and tracebacks could show what is in a request
            access_log=False,  # its lines would hold the jobs' secret names
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=5,
        )
        uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Being asked to end, by a user or a container engine, ends the block and removes what it keeps on disk.

    uvicorn raises the signal again once it has closed, which would else end the process on the spot.
    """

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    mine = threading.current_thread() is threading.main_thread()
    former = signal.signal(signal.SIGTERM, end) if mine else None
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        if mine:
            signal.signal(signal.SIGTERM, former)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens, before the model is loaded: a port that is taken is told at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise ConfigError(
            "the address cannot be listened on", where=f"{host}:{port}", got=error.strerror, fix="Give another --port."
        ) from error


def _refuse_missing_libraries() -> None:
    absent = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise ConfigError(
            "the app needs libraries that are not installed", got=", ".join(absent), fix="pip install 'seg3d[serve]'"
        )
