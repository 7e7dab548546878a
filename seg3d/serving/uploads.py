"""Taking in an upload: counted while it streams in, never named by the client, gone if anything goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from seg3d.serving.refusals import Refusal
from seg3d.serving.settings import Limits

FIELD = "image"
_TOO_LARGE = "the upload is too large"


async def receive_files(request: Request, folder: Path, limits: Limits, most_files: int) -> list[Path]:
    """The files of a ``multipart/form-data`` request, in its order, under numbers in ``folder``.

    Args:
        request: Its body has not been read.
        folder: An empty folder; what is written before a failure is left to its owner to remove.
        limits: Largest upload and longest waits.
        most_files: Files that are taken.

    Raises:
        Refusal: 400, 408, 413 or 415.
        ClientDisconnect: The client has gone.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.upload_bytes:
        raise _too_large(int(announced), limits)
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > 200:
        raise Refusal(415, "the request is no form", expected=f"multipart/form-data with files named {FIELD!r}")
    parts = _Parts(folder, most_files)
    parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]  # a dictionary of its callbacks
    try:
        async with asyncio.timeout(limits.upload_s):
            async for piece in _counted(request, limits):
                # files are written in a thread, so that a slow disk stops nobody else
                await asyncio.to_thread(parser.write, piece)
    except TimeoutError as error:
        raise Refusal(408, "the upload took too long", fix="Try again over a faster connection.") from error
    except FormParserError as error:
        raise Refusal(400, "the form cannot be read", fix="Send it as a browser or curl -F does.") from error
    finally:
        parts.close()
    if not parts.ended:
        raise Refusal(400, "the form ends too early", fix="Send it again.")
    if not parts.paths:
        raise Refusal(400, "there is no image in the form", expected=f"one file or more named {FIELD!r}")
    return parts.paths


async def _counted(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """The body, piece by piece, as long as it is not too long and does not stop."""
    count = 0
    while True:
        message = await asyncio.wait_for(request.receive(), limits.silence_s)
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body = message.get("body", b"")
        count += len(body)
        if count > limits.upload_bytes:
            raise _too_large(count, limits)
        if body:
            yield body
        if not message.get("more_body", False):
            return


def _too_large(got: int, limits: Limits) -> Refusal:
    most = limits.upload_bytes
    return Refusal(413, _TOO_LARGE, got=f"{got} bytes or more", expected=f"at most {most}", fix="Compress or crop it.")


class _Parts:
    """The parts of a form, each written to a numbered file while it is parsed."""

    def __init__(self, folder: Path, most: int) -> None:
        self.paths: list[Path] = []
        self.ended = False
        self._folder, self._most = folder, most
        self._file: BinaryIO | None = None
        self._field, self._value = bytearray(), bytearray()
        self._disposition = b""

    def callbacks(self) -> dict[str, object]:
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, a, b: self._field.extend(data[a:b]),
            "on_header_value": lambda data, a, b: self._value.extend(data[a:b]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": self._write,
            "on_part_end": self.close,
            "on_end": self._end,
        }

    def close(self) -> None:
        """Close the file that is written, if there is one."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self) -> None:
        self._disposition = b""

    def _end(self) -> None:
        self.ended = True

    def _end_header(self) -> None:
        if bytes(self._field).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _open(self) -> None:
        # the file name in the options is not looked at: it may name a patient or a path
        _, options = parse_options_header(self._disposition)
        if options.get(b"name") != FIELD.encode():
            raise Refusal(400, "the form has a field that is not known", expected=f"files named {FIELD!r}")
        if len(self.paths) == self._most:
            raise Refusal(400, "the form has too many files for this model", expected=f"at most {self._most}")
        self.paths.append(self._folder / str(len(self.paths)))
        self._file = self.paths[-1].open("xb")

    def _write(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
