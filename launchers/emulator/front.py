"""The web application: what it answers itself, what it hands to moto, what it lets fail, and what it writes down."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable
from typing import Any

from launchers.emulator.answers import ServiceError, StartResponse, reply_error, reply_json
from launchers.emulator.calls import Call, CallsFile, drain, read_call
from launchers.emulator.emulated import Emulated
from launchers.emulator.faults import DropConnection, read_fault
from launchers.emulator.logs import filter_events
from launchers.emulator.sagemaker_api import SageMaker
from launchers.emulator.store import ROLE_KEY

OWN = "/_emulator/"
NO_ANSWER = 0  # the status that is noted for a request whose connection was closed


class Front:
    """A WSGI application before moto's."""

    def __init__(self, moto: Callable[..., Iterable[bytes]], sagemaker: SageMaker, world: Emulated, calls: CallsFile):
        self._moto, self._sagemaker, self._calls = moto, sagemaker, calls
        self._faults, self._quotas = world.faults, world.quotas

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO", "").startswith(OWN):
            return self._own(environ, start_response)
        call = read_call(environ, ROLE_KEY)

        def noted(status: str, *arguments: Any, **options: Any) -> Any:
            self._calls.add(call, int(status[:3]))
            return start_response(status, *arguments, **options)

        try:
            lost = not call.is_role and self._faults.apply(call.service, call.operation)
            answer = self._answer(call, environ, noted)
            if lost:
                raise DropConnection
            return answer
        except ServiceError as error:
            drain(environ)  # a client that is still sending would not read the answer
            return reply_error(noted, call.service, environ["REQUEST_METHOD"], error)
        except DropConnection:
            drain(environ)
            self._calls.add(call, NO_ANSWER)
            connection: socket.socket = environ["werkzeug.socket"]
            connection.shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError("closed as a fault demands") from None

    def _answer(self, call: Call, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        if call.service == "sagemaker" and (answer := self._sagemaker.operation(call.operation, call.body)):
            return reply_json(start, answer(call.region))
        if call.service == "servicequotas":
            quotas = self._quotas.answer(call.operation, call.region, call.body)
            if quotas is not None:
                return reply_json(start, quotas)
        if call.service == "logs" and call.operation == "FilterLogEvents":
            events = filter_events(call.region, call.body or {})
            if events is not None:
                return reply_json(start, events)
        return self._moto(environ, start)

    def _own(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        """Answer what is about the emulator itself."""
        what = (environ["REQUEST_METHOD"], environ["PATH_INFO"].removeprefix(OWN))
        try:
            if what == ("GET", "health"):
                return reply_json(start, {"status": "ok"})
            if what == ("POST", "faults"):
                self._faults.add(read_fault(json.loads(drain(environ))))
                return reply_json(start, {})
            if what == ("DELETE", "faults"):
                self._faults.clear()
                return reply_json(start, {})
        except (ServiceError, ValueError, TypeError) as error:
            return reply_json(start, {"message": str(error)}, 400)
        return reply_json(start, {"message": f"there is no {' '.join(what)}"}, 404)
