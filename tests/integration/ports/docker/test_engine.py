"""The Docker port on the real engine: its functions and its error messages."""

import base64
import hashlib
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

import docker
import pytest

import support.served_cell as given
from flagrelease.config.chip import Container
from flagrelease.errors import (
    DockerUnavailable,
    EnvironmentFault,
    FlagreleaseError,
    RegistryDenied,
    RegistryUnavailable,
)
from flagrelease.ports.credentials import Logins
from flagrelease.ports.docker.engine import Engine
from flagrelease.ports.docker.local_images import LocalImages
from flagrelease.ports.registry import MANIFEST_TYPES, OciRegistry
from flagrelease.recipe import container
from flagrelease.recipe.container import Placement
from flagrelease.run import relock
from support.archives import packed
from support.registry_stand_in import Store, standing_in
from support.unreliable_proxy import Fault, Kind, Proxy

pytestmark = pytest.mark.integration


def ignore(*_: object) -> None:
    pass


@pytest.fixture
def tiny(engine: Engine) -> Iterator[str]:
    name = "flagrelease-test-tiny:1"
    engine.build(packed({"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}), tag=name, args={}, line=ignore)
    yield name
    engine.untag(name)


def test_the_quick_question_agrees_with_the_engine(tiny: str, engine: Engine) -> None:
    if not engine.address.startswith("unix://"):
        pytest.skip("only an engine on a socket of this machine is asked")
    images = LocalImages()
    assert [images.has(name) for name in (tiny, "flagrelease-test-tiny:2")] == [True, False]


@pytest.mark.parametrize(
    "flags",
    [
        Container(),
        Container(
            network="host",
            ipc="host",
            uts="host",
            pid="host",
            privileged=True,
            shm="100gb",
            devices=("/dev/null", "/dev/zero:/dev/nothing:r"),
            groups=("video",),
            capabilities=("SYS_PTRACE",),
            security=("seccomp=unconfined", "apparmor=unconfined"),
            ulimits={"memlock": -1, "stack": 67108864},
            env={"A": "b c", "D": ""},
            mounts=("/tmp:/mnt/tmp:ro", "/usr/share:/mnt/share"),
            tmpfs=("/scratch:exec",),
        ),
        Container(gpus="all"),
        Container(gpus="2"),
        Container(gpus="device=0,1"),
    ],
    ids=["none", "many", "all", "two", "chosen"],
)
@pytest.mark.parametrize(
    "placement",
    [Placement(), Placement(port=None, address="127.0.0.1", labels={"l": "v"})],
    ids=["card", "ours"],
)
def test_the_line_and_the_api_make_the_same_container(
    engine: Engine, tiny: str, flags: Container, placement: Placement
) -> None:
    cell = given.cell()
    chip = replace(cell.chip, container=flags)
    run = container.for_serving(chip, cell.model, tiny, "/tmp", "native", replace(placement, name=""))
    client = docker.from_env()
    by_api = client.containers.create(**run.sdk())
    line = ["docker", "create", *run.argv()[3:]]
    by_line = client.containers.get(subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip())
    try:
        api, line = container.effective(by_api.attrs), container.effective(by_line.attrs)
        assert api == line
    finally:
        by_api.remove()
        by_line.remove()


@pytest.mark.parametrize("name", ["nvidia-h100/qwen3-8b", "metax/qwen3-8b"])
def test_a_container_has_the_devices_of_its_cell_alone(engine: Engine, tiny: str, name: str) -> None:
    cell = given.cell(name, devices=2)
    chip = replace(cell.chip, container=replace(cell.chip.container, devices=("/dev/null",)))
    run = container.for_serving(chip, cell.model, tiny, "/tmp", "native", Placement(name=""), (2, 5))
    client = docker.from_env()
    by_api = client.containers.create(**run.sdk())
    created = subprocess.run(["docker", "create", *run.argv()[3:]], capture_output=True, text=True, check=True)
    by_line = client.containers.get(created.stdout.strip())
    try:
        assert container.effective(by_api.attrs) == container.effective(by_line.attrs)
        host = by_line.attrs["HostConfig"]
        requests, env = host["DeviceRequests"], by_line.attrs["Config"]["Env"]
        if chip.container.gpus:
            assert [request["DeviceIDs"] for request in requests] == [["2", "5"]]
            assert not any(text.startswith("CUDA_VISIBLE_DEVICES") for text in env)
        else:
            assert not requests
            assert "CUDA_VISIBLE_DEVICES=2,5" in env
        assert host["ShmSize"] >= 32 << 30
    finally:
        by_api.remove()
        by_line.remove()


def test_different_flags_give_different_configurations(engine: Engine, tiny: str) -> None:
    cell = given.cell()
    client = docker.from_env()
    seen = []
    for flags in (Container(), Container(shm="1gb"), Container(groups=("video",)), Container(env={"A": "1"})):
        chip = replace(cell.chip, container=flags)
        run = container.for_serving(chip, cell.model, tiny, "/tmp", "native", Placement(name=""))
        made = client.containers.create(**run.sdk())
        seen.append(json.dumps(container.effective(made.attrs), sort_keys=True))
        made.remove()
    assert len(set(seen)) == 4


def test_a_failed_step_shows_its_output(engine: Engine, base: str) -> None:
    dockerfile = f"FROM {base}\nRUN echo the reason; exit 3\n"
    with pytest.raises(EnvironmentFault, match="building the image failed") as caught:
        engine.build(packed({"Dockerfile": dockerfile}), tag="flagrelease-test-never:1", args={}, line=ignore)
    assert "code: 3" in caught.value.why
    assert "the reason" in caught.value.detail
    assert engine.image("flagrelease-test-never:1") is None


def test_a_build_has_no_network(engine: Engine, base: str) -> None:
    program = "import socket; socket.create_connection(('192.0.2.1', 80), 2)"
    context = packed({"Dockerfile": f'FROM {base}\nRUN python3 -c "{program}"\n'})
    with pytest.raises(EnvironmentFault) as caught:
        engine.build(context, tag="flagrelease-test-never:1", args={}, line=ignore)
    assert "Network is unreachable" in caught.value.detail


def test_pushed_and_pulled_by_digest(engine: Engine, tiny: str, own_registry: str) -> None:
    repository = f"{own_registry}/tiny"
    engine.tag(tiny, repository, "1")
    first = engine.push(repository, "1", ignore)
    assert first.digest.startswith("sha256:")
    assert len(first.layers) == 1
    assert engine.push(repository, "1", ignore).layers == frozenset(), "layers in the registry are not sent again"
    engine.untag(f"{repository}:1")
    assert engine.pull(repository, first.digest, ignore).digests == (f"{repository}@{first.digest}",)
    engine.untag(f"{repository}@{first.digest}")


def test_a_push_that_is_refused_in_the_stream_is_an_error(engine: Engine, tiny: str) -> None:
    store = Store(login=("user", "right"))
    with standing_in(store) as host:
        engine.tag(tiny, f"{host}/x", "1")
        with pytest.raises(RegistryDenied) as caught:
            engine.push(f"{host}/x", "1", ignore)
        engine.untag(f"{host}/x:1")
    assert caught.value.exit_code == 7
    assert "FLAGRELEASE_REGISTRY_USER" in caught.value.hint


def test_a_push_to_nowhere(engine: Engine, tiny: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        repository = f"127.0.0.1:{closed.getsockname()[1]}/x"
        engine.tag(tiny, repository, "1")
        with pytest.raises(RegistryUnavailable) as caught:
            engine.push(repository, "1", ignore)
        engine.untag(f"{repository}:1")
    assert caught.value.retriable


def test_pulling_a_digest_that_is_not_there(engine: Engine, own_registry: str) -> None:
    with pytest.raises(FlagreleaseError) as caught:
        engine.pull(f"{own_registry}/tiny", "sha256:" + "0" * 64, ignore)
    assert "\n" not in caught.value.line()


def indexed(repository: str, image: str, platform: dict[str, str]) -> str:
    """Put an index of the image for this platform, with an attestation as `docker buildx` adds it; its digest."""
    registry = OciRegistry()
    found = registry.manifest(repository, image)
    document = json.loads(found.body)
    index, manifest = MANIFEST_TYPES[1], MANIFEST_TYPES[0]
    kind = {"mediaType": "application/vnd.oci.image.config.v1+json"}
    layer = {"mediaType": "application/vnd.in-toto+json"}
    proof = {"schemaVersion": 2, "mediaType": manifest, "config": document["config"] | kind}
    body = json.dumps(proof | {"layers": [document["layers"][0] | layer]}).encode()
    attested = registry.put_manifest(repository, "sha256:" + hashlib.sha256(body).hexdigest(), body, manifest)
    entries = [
        {"mediaType": found.media_type, "digest": image, "size": len(found.body), "platform": platform},
        {
            "mediaType": manifest,
            "digest": attested,
            "size": len(body),
            "annotations": {"vnd.docker.reference.digest": image, "vnd.docker.reference.type": "attestation-manifest"},
            "platform": {"architecture": "unknown", "os": "unknown"},
        },
    ]
    whole = json.dumps({"schemaVersion": 2, "mediaType": index, "manifests": entries}).encode()
    return registry.put_manifest(repository, f"of-{platform['architecture']}", whole, index)


def test_an_index_with_attestations(engine: Engine, tiny: str, own_registry: str) -> None:
    repository = f"{own_registry}/indexed"
    engine.tag(tiny, repository, "1")
    image = engine.push(repository, "1", ignore).digest
    engine.untag(f"{repository}:1")
    digest = indexed(repository, image, {"architecture": "amd64", "os": "linux"})
    chip = relock._base(f"{repository}:of-amd64", OciRegistry())
    assert chip.digest == digest != image, "the index is pinned, so that other machines pull their own"
    pulled = engine.pull(repository, chip.digest, ignore)
    assert pulled.digests == (f"{repository}@{digest}",)
    local = engine.image(tiny)
    assert local is not None
    assert pulled.id == local.id
    engine.untag(f"{repository}@{digest}")
    with pytest.raises(FlagreleaseError, match="refused pulling") as caught:
        engine.pull(repository, indexed(repository, image, {"architecture": "s390x", "os": "linux"}), ignore)
    assert caught.value.exit_code == 7
    assert "no matching manifest" in caught.value.why


@pytest.mark.parametrize("kind", ["lost", "reset", "cut"])
def test_a_read_whose_connection_is_lost_is_asked_again(engine: Engine, tiny: str, tmp_path: Path, kind: Kind) -> None:
    proxy = Proxy(Path("/var/run/docker.sock"))
    with proxy.running(tmp_path / "s"):
        there = Engine(proxy.url)
        local = there.image(tiny)
        faults = [Fault(kind=kind, bytes=1)] * 3
        proxy.plan = lambda _number, _method, _path: faults.pop() if faults else None
        assert there.image(tiny) == local
        assert faults == []
        proxy.plan = lambda _number, _method, _path: Fault(kind=kind, bytes=1)
        before = len(proxy.calls)
        with pytest.raises(DockerUnavailable) as caught:
            there.image(tiny)
        assert "Connection" in caught.value.why
        assert len(proxy.calls) - before == 4
        before = len(proxy.calls)
        with pytest.raises(DockerUnavailable):
            there.tag(tiny, "flagrelease-test-lost", "1")
        assert len(proxy.calls) - before <= 5, "what changes something is asked once, after an inspection"
    engine.untag("flagrelease-test-lost:1")


@pytest.mark.parametrize("url", ["unix:///nonexistent/docker.sock", "tcp://127.0.0.1:9"])
def test_no_engine(url: str) -> None:
    with pytest.raises(DockerUnavailable) as caught:
        Engine(url).version()
    assert caught.value.exit_code == 6
    assert "\n" not in caught.value.line()
    assert "make setup" in caught.value.hint


class Vanishing(BaseHTTPRequestHandler):
    """Docker Engine that begins a build and hangs up."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b'{"Version":"20.10.24","ApiVersion":"1.41","MinAPIVersion":"1.12"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        step = b'{"stream":"Step 1/2 : FROM x\\n"}'
        self.wfile.write(b"%x\r\n%s\r\n" % (len(step), step))
        self.close_connection = True

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass


class UnixServer(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        super().__init__(str(path), Vanishing)


@pytest.fixture
def vanishing(tmp_path: Path) -> Iterator[UnixServer]:
    with UnixServer(tmp_path / "docker.sock") as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


def test_an_engine_that_goes_away_in_the_middle(vanishing: UnixServer) -> None:
    with pytest.raises(DockerUnavailable) as caught:
        Engine(f"unix://{vanishing.server_address}").build(
            packed({"Dockerfile": "FROM x"}), tag="x:1", args={}, line=ignore
        )
    assert "while building" in caught.value.line()
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize(
    "config",
    [
        {"auths": {"reg.example": {"auth": "dTpjYW5hcnktcGFzc3dvcmQ="}}},
        {"credsStore": "not-installed"},
        {"proxies": {"default": {"httpProxy": "http://u:canary-password@proxy.example"}}},
    ],
)
def test_a_build_gets_no_login_and_no_proxy(
    config: object, vanishing: UnixServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(DockerUnavailable, match="while building"):
        Engine(f"unix://{vanishing.server_address}").build(
            packed({"Dockerfile": "FROM x"}), tag="x:1", args={}, line=ignore
        )
    ((path, headers),) = vanishing.asked
    assert "/build" in path
    assert "canary" not in path
    assert "X-Registry-Config" not in headers


def test_a_push_carries_the_login_of_its_registry_only(vanishing: UnixServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGRELEASE_REGISTRY_USER", "me")
    monkeypatch.setenv("FLAGRELEASE_REGISTRY_PASSWORD", "canary-password")
    engine = Engine(f"unix://{vanishing.server_address}", known=Logins(own="own.example:5"))
    for repository in ("own.example:5/x", "other.example/x"):
        with pytest.raises(FlagreleaseError):
            engine.push(repository, "1", ignore)
    sent = [headers["X-Registry-Auth"] for _path, headers in vanishing.asked]
    own, other = (json.loads(base64.urlsafe_b64decode(text)) for text in sent)
    assert own == {"username": "me", "password": "canary-password"}
    assert other == {}


DAMAGED = [
    '{"auths": {"localhost:5000": {"auth": "!!notbase64"}}}',
    '{"auths": {"localhost:5000": {"auth": "dXNlcg=="}}}',
    '{"auths": {"localhost:5000": {"auth": 7}}}',
    '{"auths": {"localhost:5000": "x"}}',
    '{"auths": 5, "proxies": 5, "HttpHeaders": 5, "credHelpers": 5}',
    '{"proxies": {"default": 5}, "HttpHeaders": {"a": 5}}',
    '{"credsStore": "not-installed"}',
    '{"auths": {"localhost:5000": {"identitytoken": "x"}}, "credHelpers": {"localhost:5000": "not-installed"}}',
    "[]",
    "{",
    "\\xff",
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_configuration_breaks_nothing_that_needs_no_login(
    content: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_bytes(content.encode().replace(b"\\xff", b"\xff"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert Engine().version() == engine.version()
    with pytest.raises(EnvironmentFault) as caught:  # docker-py pulls what is absent, with the login that it finds
        Engine().output("localhost:9/none:1", ["true"], {})
    assert "connection refused" in caught.value.why


def cli_context(folder: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context `there` of the docker CLI, whose configuration is in `folder`."""
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    create = ["docker", "context", "create", "there", "--docker", f"host={address}"]
    subprocess.run(create, check=True, capture_output=True)


def builds_there(server: UnixServer) -> bool:
    with pytest.raises(DockerUnavailable, match="while building"):
        Engine().build(packed({"Dockerfile": "FROM x"}), tag="x:1", args={}, line=ignore)
    return len(server.asked) == 1


@pytest.mark.parametrize("way", ["DOCKER_CONTEXT", "current", "DOCKER_HOST"])
def test_the_engine_of_the_clis_context_is_used(
    way: str, vanishing: UnixServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"unix://{vanishing.server_address}"
    cli_context(tmp_path, "unix:///nonexistent/docker.sock" if way == "DOCKER_HOST" else address, monkeypatch)
    if way == "current":
        subprocess.run(["docker", "context", "use", "there"], check=True, capture_output=True)
    else:
        monkeypatch.setenv("DOCKER_CONTEXT", "there")
    if way == "DOCKER_HOST":
        monkeypatch.setenv("DOCKER_HOST", address)
    assert builds_there(vanishing)


def test_the_default_context_is_this_machines_engine(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli_context(tmp_path, "unix:///nonexistent/docker.sock", monkeypatch)
    subprocess.run(["docker", "context", "use", "there"], check=True, capture_output=True)
    with pytest.raises(DockerUnavailable) as caught:
        Engine().version()
    assert "unix:///nonexistent/docker.sock, from docker context there" in caught.value.hint
    monkeypatch.setenv("DOCKER_CONTEXT", "default")
    assert Engine().version() == engine.version()
