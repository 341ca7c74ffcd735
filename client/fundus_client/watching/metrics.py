"""What Prometheus can ask a watch: counts and times, no names of files."""

from fundus_core.errors import IMAGE_REASONS, MissingExtraError, UsageError

SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)


class Metrics:
    """Counts nothing: nobody asks."""

    def filed(self, status: str, reason: str, seconds: float | None) -> None:
        """Count a file that was moved, `seconds` after it was seen first; `reason` is a code, or ""."""

    def answered(self, seconds: float) -> None:
        """Note how long a server's answer took."""

    def found(self, n_images: int) -> None:
        """Note how many files are in the inbox."""

    def server(self, up: bool) -> None:
        """Note whether any server is connected."""


class PrometheusMetrics(Metrics):
    """Counts, and answers at http://host:port/metrics from a thread of its own.

    Raises:
        MissingExtraError: prometheus-client is not installed.
        UsageError: the port cannot be had.
    """

    def __init__(self, host: str, port: int) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
        except ImportError:
            raise MissingExtraError("watch", "prometheus-client") from None
        asked = CollectorRegistry()
        self._images = Counter("fundus_images", "Files moved out of the inbox.", ["status"], registry=asked)
        self._failures = Counter("fundus_failures", "Files without a score.", ["reason"], registry=asked)
        latency = "From first sight of a file to its move (of=file), from read to answered (of=answer)."
        self._latency = Histogram("fundus_latency_seconds", latency, ["of"], registry=asked, buckets=SECONDS)
        self._inbox = Gauge("fundus_inbox_files", "Image files in the inbox.", registry=asked)
        self._up = Gauge("fundus_server_up", "1 where any server is connected.", registry=asked)
        for status in ("scored", "failed"):  # zeros: an alert can be on the rise of a series from its first 1
            self._images.labels(status)
        for reason in (*IMAGE_REASONS, "breaks_server", "server_error"):
            self._failures.labels(reason)
        try:
            start_http_server(port, host, asked)
        except OSError as error:
            hint = "Choose another --metrics-port."
            raise UsageError(f"Port {port} on {host} cannot be had: {error.strerror}. {hint}") from None

    def filed(self, status: str, reason: str, seconds: float | None) -> None:
        """Count a file that was moved."""
        self._images.labels(status).inc()
        if reason:
            self._failures.labels(reason).inc()
        if seconds is not None:
            self._latency.labels("file").observe(seconds)

    def answered(self, seconds: float) -> None:
        """Note how long a server's answer took."""
        self._latency.labels("answer").observe(seconds)

    def found(self, n_images: int) -> None:
        """Note how many files are in the inbox."""
        self._inbox.set(n_images)

    def server(self, up: bool) -> None:
        """Note whether any server is connected."""
        self._up.set(up)
