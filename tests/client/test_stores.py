"""S3: a real server that speaks it on loopback (moto)."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from moto import settings as moto_settings
from moto.core.authorization import enable_iam_authentication
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer
from tests.client.reading import SECRET, contents, found, reason_of

from fundus_client.sources import open_source
from fundus_client.sources.store import StoreRef
from fundus_core.errors import FundusError, UsageError
from fundus_core.images import DEFAULT_LIMITS, ImageLimits

BUCKET = (f"eyes-{number}" for number in count())
ODD_KEYS = [
    "a b.jpg",
    "a+b%20c.jpg",
    "眼底/緑内障.PNG",
    "e\u0301.tif",
    "q?x.jpg",
    "[1]/h#1.jpg",
    "a'\"&<>.jpg",
    "//d.jpg",
]


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadedMotoServer]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def store(server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The settings by which every tool finds the server, and what fills a bucket of its own."""
    use(monkeypatch, f"http://127.0.0.1:{server.get_host_and_port()[1]}")
    bucket, backend = next(BUCKET), s3_backends["123456789012"]["aws"]
    backend.create_bucket(bucket, "us-east-1")

    def fill(*keys: str) -> None:
        for key in keys:
            backend.put_object(bucket, key, key.encode())

    def remove(key: str) -> None:
        backend.delete_object(bucket, key)

    return SimpleNamespace(bucket=bucket, url=f"s3://{bucket}", fill=fill, remove=remove)


def use(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, credentials: tuple[str, str] = ("id", SECRET)
) -> None:
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), credentials, strict=True):
        monkeypatch.setenv(name, value)


def test_a_bucket_gives_its_images_by_suffix_in_the_order_of_their_keys(store: SimpleNamespace) -> None:
    keys = ["a.jpg", "a/1.JPG", "a/2.png", "a/b/3.tif", "z.bmp"]
    store.fill(*keys, "a/notes.txt", "labels.csv", "folder.jpg/", "jpg")
    assert list(found(store.url)) == keys
    assert contents(found(f"{store.url}/a").values()) == {
        "1.JPG": b"a/1.JPG",
        "2.png": b"a/2.png",
        "b/3.tif": b"a/b/3.tif",
    }


def test_thousands_of_keys_come_as_the_walk_goes_on_each_time_anew(store: SimpleNamespace) -> None:
    """The server gives a thousand keys at a time; a key that appears later is in a later page."""
    keys = [f"{number % 7}/{number:04}.jpg" for number in range(2500)]
    store.fill(*keys)
    source = open_source([store.url], None)
    assert [ref.image_id for ref in source] == sorted(keys)
    walk = iter(source)
    assert next(walk).image_id == "0/0000.jpg"
    store.fill("z.jpg")
    assert [ref.image_id for ref in walk] == [*sorted(keys)[1:], "z.jpg"]


def test_an_odd_key_is_found_and_read(store: SimpleNamespace) -> None:
    store.fill(*(f"x/{key}" for key in ODD_KEYS))
    expected = {key: f"x/{key}".encode() for key in ODD_KEYS}
    assert contents(found(f"{store.url}/x").values()) == expected
    assert contents(found(*(f"{store.url}/x/{key}" for key in ODD_KEYS)).values()) == expected


def test_ids_of_several_addresses_start_at_their_common_folder(store: SimpleNamespace) -> None:
    store.fill("x/left/1.png", "x/left/2.png", "x/left.jpg", "x/lefty/3.png", "x/scan.dat")
    addresses = [f"{store.url}/x/{name}" for name in ("left", "scan.dat", "left/2.png", "lefty/")]
    assert list(found(*addresses)) == ["left/1.png", "left/2.png", "lefty/3.png", "scan.dat"]
    assert list(found(f"{store.url}/x/left/2.png")) == ["2.png"]


def test_a_slash_at_the_end_tells_a_folder_from_an_object_of_its_name(store: SimpleNamespace) -> None:
    store.fill("x/left", "x/left/1.png")
    assert list(found(f"{store.url}/x/left/")) == ["1.png"]
    assert list(found(f"{store.url}/x/left")) == ["left"]


def test_a_pattern_takes_what_matches_and_what_is_below(store: SimpleNamespace) -> None:
    store.fill("x/2024/1.jpg", "x/2024/1.dat", "x/2025/a/2.jpg", "x/2025/a/2.txt", "x/notes.txt")
    assert list(found(f"{store.url}/x/**/*.dat")) == ["2024/1.dat"]
    assert list(found(f"{store.url}/x/*5")) == ["2025/a/2.jpg"]
    assert list(found(f"{store.url}/x/2024/1.*")) == ["1.dat", "1.jpg"]


def test_a_key_with_wildcards_is_itself(store: SimpleNamespace) -> None:
    store.fill("x/[a].jpg", "x/a.jpg")
    assert list(found(f"{store.url}/x/[a].jpg")) == ["[a].jpg"]


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("s3://no-such-bucket", "There is no object or folder 's3://no-such-bucket'. Check the address"),
        ("s3://no-such-bucket/**", "There is no object or folder 's3://no-such-bucket'. Check the address"),
        ("{}/nothing", "There is no object or folder '{}/nothing'. Check the address"),
        ("{}/x/*.gif", r"Nothing matches '{}/x/*.gif'"),
        ("s3://", "names no bucket. Write s3://bucket/folder"),
        ("s3://eyes-*/x", "names no bucket. Write s3://bucket/folder"),
        ("s3://id:password@bucket/x", "no address may hold a password"),
        ("https://example.org/a.jpg", "Only stores such as s3://bucket/folder are read"),
        ("nosuch://a.jpg", "Addresses with nosuch:// cannot be opened"),
        ("zip://a.jpg", "Addresses with zip:// cannot be opened"),
    ],
)
def test_an_address_that_leads_nowhere_is_a_usage_error(
    address: str, sentence: str, store: SimpleNamespace
) -> None:
    store.fill("x/a.jpg")
    with pytest.raises(UsageError) as caught:
        open_source([address.format(store.url)], None)
    assert sentence.format(store.url) in str(caught.value)


@pytest.mark.parametrize("other", ["a.jpg", "memory://a.jpg"])
def test_two_kinds_of_places_are_a_usage_error(other: str, store: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="is not where the others are"):
        open_source([store.url, other], None)


def test_what_may_not_be_read_is_a_row_and_what_may_not_be_listed_a_usage_error(
    store: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.fill("open/a.jpg", "shut/b.jpg")
    key = user_who_may(
        {"Action": ["s3:ListBucket", "s3:HeadBucket"], "Resource": f"arn:aws:s3:::{store.bucket}"},
        {"Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{store.bucket}/open/*"},
    )
    endpoint = boto3.client("s3").meta.endpoint_url
    with enable_iam_authentication():
        with pytest.raises(
            UsageError, match=r"'s3://eyes-\d+' cannot be read. The store refuses it. Check the"
        ):
            open_source([store.url], None)
        use(monkeypatch, endpoint, (key["AccessKeyId"], key["SecretAccessKey"]))
        refs = found(store.url)
        assert refs["open/a.jpg"].read(DEFAULT_LIMITS) == b"open/a.jpg"
        assert reason_of(refs["shut/b.jpg"]) == "unreadable"
        with pytest.raises(UsageError, match="The store refuses it"):
            open_source([f"{store.url}/shut/b.jpg"], None)
    assert moto_settings.INITIAL_NO_AUTH_ACTION_COUNT > 1


def user_who_may(*statements: dict[str, object]) -> dict[str, str]:
    iam = boto3.client("iam")
    iam.create_user(UserName="reader")
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **each} for each in statements]}
    iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=json.dumps(policy))
    key: dict[str, str] = iam.create_access_key(UserName="reader")["AccessKey"]
    return key


def test_without_credentials_the_sentence_says_so(
    store: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UsageError, match=r"NoCredentialsError\). Check the network and the credentials"):
        open_source([store.url], None)


def test_an_object_that_goes_after_the_listing_is_vanished(store: SimpleNamespace) -> None:
    store.fill("a.jpg", "b.jpg")
    refs = found(store.url)
    store.remove("a.jpg")
    assert reason_of(refs["a.jpg"]) == "vanished"
    assert refs["b.jpg"].read(DEFAULT_LIMITS) == b"b.jpg"


def test_a_store_that_goes_gives_reasons_for_objects_and_ends_a_listing() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        mortal = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        mortal.start()
        use(monkeypatch, f"http://127.0.0.1:{mortal.get_host_and_port()[1]}")
        bucket, backend = next(BUCKET), s3_backends["123456789012"]["aws"]
        backend.create_bucket(bucket, "us-east-1")
        backend.put_object(bucket, "a.jpg", b"a")
        source = open_source([f"s3://{bucket}"], None)
        ref = next(iter(source))
        mortal.stop()
        assert reason_of(ref) == "unreadable"
        with pytest.raises(
            FundusError, match=r"'s3://eyes-\d+' cannot be listed. The store cannot be read \(End"
        ):
            list(source)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty"), (bytes(101), "too_large")], ids=["of 0 bytes", "above the limit"]
)
def test_an_object_is_refused_unread(content: bytes, reason: str, store: SimpleNamespace) -> None:
    s3_backends["123456789012"]["aws"].put_object(store.bucket, "a.jpg", content)
    (ref,) = found(store.url).values()
    store.remove("a.jpg")
    assert ref.size_bytes() == len(content)
    assert reason_of(ref, ImageLimits(max_bytes=100)) == reason


def test_an_object_that_has_grown_since_the_listing_is_too_large(store: SimpleNamespace) -> None:
    store.fill("a.jpg")
    (ref,) = found(store.url).values()
    s3_backends["123456789012"]["aws"].put_object(store.bucket, "a.jpg", bytes(200))
    assert reason_of(ref, ImageLimits(max_bytes=100)) == "too_large"
    assert isinstance(ref, StoreRef)
    assert ref.store.fetch(ref.key, 101) == bytes(101)


def test_an_object_of_exactly_the_limit_is_read(store: SimpleNamespace) -> None:
    s3_backends["123456789012"]["aws"].put_object(store.bucket, "a.jpg", bytes(100))
    assert found(store.url)["a.jpg"].read(ImageLimits(max_bytes=100)) == bytes(100)


def test_a_stamp_changes_with_the_content_and_only_then(store: SimpleNamespace) -> None:
    store.fill("a.jpg", "b.jpg")
    first = {image_id: ref.stamp() for image_id, ref in found(store.url).items()}
    assert first == {image_id: ref.stamp() for image_id, ref in found(store.url).items()}
    assert first["b.jpg"] == found(f"{store.url}/b.jpg")["b.jpg"].stamp()
    assert {len(stamp) for stamp in first.values()} == {16}
    s3_backends["123456789012"]["aws"].put_object(store.bucket, "a.jpg", b"A.jpg")
    second = {image_id: ref.stamp() for image_id, ref in found(store.url).items()}
    assert second["a.jpg"] != first["a.jpg"]
    assert second["b.jpg"] == first["b.jpg"]


def test_a_list_of_addresses_gives_a_row_for_each(store: SimpleNamespace, tmp_path: Path) -> None:
    keys = [f"x/{number:03}.jpg" for number in range(70)]
    store.fill(*keys, *(f"x/{key}" for key in ODD_KEYS), "y/folder/a.jpg")
    names = [*reversed(keys), *(f"x/{key}" for key in ODD_KEYS), "x/missing.jpg", "y/folder", keys[0]]
    (tmp_path / "list").write_text("".join(f"{store.url}/{name}\0" for name in names))
    source = open_source([], str(tmp_path / "list"))
    assert source.n_repeated == 1
    refs = {ref.image_id: ref for ref in source}
    assert list(refs) == sorted(set(names))
    assert reason_of(refs.pop("x/missing.jpg")) == "vanished"
    assert reason_of(refs.pop("y/folder")) == "not_a_file"
    assert contents(refs.values()) == {key: key.encode() for key in refs}
    listed = {ref.image_id: ref.stamp() for ref in open_source([f"{store.url}/x/"], None)}
    assert {image_id: ref.stamp() for image_id, ref in refs.items()} == {
        f"x/{key}": listed[key] for key in listed
    }


def test_a_version_in_an_address_is_never_read_as_another_object(store: SimpleNamespace) -> None:
    store.fill("a.jpg", "a.jpg?versionId=1.jpg")
    refs = found(store.url)
    assert reason_of(refs["a.jpg?versionId=1.jpg"]) == "unreadable"
    assert refs["a.jpg"].read(DEFAULT_LIMITS) == b"a.jpg"
    with pytest.raises(UsageError, match=r"A name with '\?versionId=' is not read. Copy the object"):
        open_source([f"{store.url}/a.jpg?versionId=1"], None)
