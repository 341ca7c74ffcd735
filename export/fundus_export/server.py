"""What a running tritonserver is told to load and unload (`--model-control-mode=explicit`)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from fundus_core.addresses import check_address
from fundus_core.ensemble import DIGEST_PARAMETER
from fundus_core.errors import ServerError, ServerRefusedError, ServerUnreachableError
from fundus_core.tls import Tls, refusal

KEY_HEADER = "triton-grpc-protocol-fundus-admin-key"
DIRECT = [("grpc.enable_http_proxy", 0)]  # a hospital's http_proxy is for the web
LOAD_TIMEOUT_S = 600.0
ANSWER_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Server:
    """A connection to the server at `url`, "host:port" of its gRPC."""

    url: str
    client: InferenceServerClient
    headers: dict[str, str]

    def load(self, model: str, digest: str) -> None:
        """Load a model, or swap it for what its folder holds now; requests in flight end on the old one.

        Raises:
            ServerError: the server cannot load it, or then serves something else than the bundle `digest`.
        """
        self._tell(self.client.load_model, model, client_timeout=LOAD_TIMEOUT_S)
        served = self._tell(self.client.get_model_config, model, client_timeout=ANSWER_TIMEOUT_S)
        if served.config.parameters[DIGEST_PARAMETER].string_value != digest:
            hint = "Give the repository that it serves, and start it with --model-control-mode=explicit."
            raise ServerError(f"{self.url} still serves another {model}. {hint}")

    def unload(self, model: str) -> None:
        """Let go of an ensemble and its models; requests in flight are answered."""
        timeout_s = LOAD_TIMEOUT_S
        self._tell(self.client.unload_model, model, unload_dependents=True, client_timeout=timeout_s)

    def _tell(self, call: Callable[..., Any], model: str, **options: Any) -> Any:
        try:
            return call(model, headers=self.headers, **options)
        except InferenceServerException as error:
            raise ServerError(f"{self.url} refuses: {error.message()}") from None


@contextmanager
def connect(url: str, admin_key: str | None, tls: Tls | None) -> Iterator[Server]:
    """Give the server at `url`, once it has answered.

    Raises:
        ServerUnreachableError: nobody answers there; its subclass says that both don't agree on TLS.
        UsageError: `url` is not host:port.
    """
    check_address(url)
    headers = {KEY_HEADER: admin_key} if admin_key else {}
    with InferenceServerClient(url, creds=tls and tls.credentials(), channel_args=DIRECT) as client:
        try:
            client.is_server_live(client_timeout=ANSWER_TIMEOUT_S)
        except InferenceServerException as error:
            if said := refusal(url, tls):
                raise ServerRefusedError(said) from None
            hint = "Check that it runs and that this is its gRPC port."
            raise ServerUnreachableError(f"No answer from {url} ({error.message()}). {hint}") from None
        yield Server(url, client, headers)
