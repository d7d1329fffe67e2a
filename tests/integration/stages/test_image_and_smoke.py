"""The real thing: real weights, an image assembled and pushed, served by FlagScale, and asked."""

import io
import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import support.served_cell as given
from flagrelease.config.lockfile import LockedChip
from flagrelease.config.matrix import Stack
from flagrelease.contract import results
from flagrelease.contract.context import Context, Look
from flagrelease.errors import DiedBeforeReady, EnvironmentFault, GateFailed, RegistryDenied, SmokeFailed
from flagrelease.evaluation import token_gate
from flagrelease.packaging import wheelhouse
from flagrelease.ports.docker.engine import Engine
from flagrelease.ports.hub import RealHubs
from flagrelease.ports.logprobs import ServedProbabilities
from flagrelease.ports.processes.runner import ProcessRunner
from flagrelease.ports.registry import OciRegistry
from flagrelease.recipe.image_paths import DOCKER
from flagrelease.serving.server import ServeRequest, served
from flagrelease.stages.image import build_context, old_images
from flagrelease.stages.image import stage as image
from flagrelease.stages.smoke import card_commands
from flagrelease.stages.smoke import stage as smoke
from flagrelease.stages.weights import stage as weights
from flagrelease.store.digests import sha256_of
from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.workspace import Workspace
from support import finished_cell, image_tree
from support.contexts import after
from support.registry_blobs import blob
from support.registry_stand_in import Store, standing_in
from support.unreliable_proxy import Proxy

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


class Started:
    """A cell whose weights and image stages have run, once for all tests here."""

    def __init__(self, root: Path, engine: Engine, registry: str) -> None:
        # A small window: an eighth of it is what the check of long prompts reads.
        cell = given.cell(args={"threads": 1}, max_model_len=2048)
        self.job = given.job(cell, f"{registry}/{uuid.uuid4().hex[:8]}")
        self.context = given.context(root, runner=engine)
        ports = replace(self.context.ports, hubs=RealHubs())
        self.weights = weights.run(self.job, replace(self.context, ports=ports))
        self.image = image.run(self.job, self.context)

    def repository(self, prefix: str) -> str:
        """The image's repository under another prefix of the registry."""
        host = self.job.registry.partition("/")[0]
        return replace(self.job, registry=f"{host}/{prefix}").repository

    def after(self, image: results.Image | None = None) -> Context:
        return after(self.context, weights=self.weights, image=image or self.image)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, engine: Engine, base: str, empty_registry: str) -> Started:
    return Started(tmp_path_factory.mktemp("workspace"), engine, empty_registry)


def test_the_image_is_in_the_registry_by_its_digest(started: Started) -> None:
    registry = OciRegistry()
    made = started.image
    assert registry.digest(made.repository, made.digest) == made.digest
    manifest = json.loads(registry.manifest(made.repository, made.digest).body)
    config = json.loads(blob(made.repository, manifest["config"]["digest"]))
    assert config["config"]["Labels"] == made.labels
    assert config["config"]["Entrypoint"] == ["flagos-serve"]
    parts = (manifest["config"], *manifest["layers"])
    documents = len(registry.manifest(made.repository, made.digest).body)
    assert made.pushed_bytes == sum(part["size"] for part in parts) + documents, "a new registry got all layers"
    assert made.size == Engine().pull(made.repository, made.digest, lambda _done, _total: None).size
    assert made.versions["flag-scale"] == "0.8.0"
    assert any("llama-server" in remark for remark in made.remarks)


def test_assembling_again_gives_the_same_digest_sends_nothing_and_starts_no_container(started: Started) -> None:
    nothing: Any = None
    ports = replace(started.context.ports, runner=nothing)
    again = image.run(started.job, replace(started.context, ports=ports))
    assert (again.digest, again.pushed_bytes) == (started.image.digest, 0)


def test_if_only_the_kernels_changed_the_registry_gets_their_layer_and_the_documents(started: Started) -> None:
    def made(bundle: str) -> tuple[results.Image, Context]:
        (root / bundle).mkdir(parents=True)
        (root / bundle / "operators.yaml").write_text(bundle)
        kernels = finished_cell.kernels(folder=f"kernels/{bundle}", content=sha256_of(bundle.encode()))
        context = after(started.context, kernels=kernels)
        ports = replace(context.ports, registry=OciRegistry())
        return image.run(replace(started.job, registry=f"{proxy.url}/kernels"), replace(context, ports=ports)), context

    root = started.context.workspace.kernels
    host, _, port = started.job.registry.partition("/")[0].partition(":")
    proxy = Proxy((host, int(port)))
    with proxy.running():
        first, _ = made("mm")
        before, calls = proxy.received, len(proxy.calls)
        second, _ = made("mm-and-neg")
    assert first.digest != second.digest
    old, new = (
        json.loads(OciRegistry().manifest(started.repository("kernels"), one.digest).body) for one in (first, second)
    )
    assert old["layers"][:-1] == new["layers"][:-1]
    body = len(OciRegistry().manifest(started.repository("kernels"), second.digest).body)
    sent = new["layers"][-1]["size"] + new["config"]["size"] + body
    assert proxy.received - before == second.pushed_bytes == sent
    assert sent < 1 << 20, "the runtime, the bundle and the documents; the packages are 90 MB"
    written = [call.split()[1] for call in proxy.calls[calls:] if call.split()[1] in ("PATCH", "PUT")]
    assert written == ["PATCH", "PUT", "PUT", "PUT"], "a layer, the configuration and the manifest"


def test_with_what_was_kept_no_docker_is_needed_and_the_base_is_mounted_instead_of_pulled(started: Started) -> None:
    host, _, port = started.job.registry.partition("/")[0].partition(":")
    proxy, cell = Proxy((host, int(port))), started.job.cell
    nothing: Any = None
    with proxy.running():
        name = f"{proxy.url}/{started.job.registry.partition('/')[2]}/flagrelease-base"
        tag = old_images.build_tag(started.image.base_id)
        digest = OciRegistry().digest(name, tag)
        assert digest is not None, "a base image without registry was pushed to that of the releases"
        locked = replace(started.job.lock, chips={"cpu": LockedChip(base=f"{name}:{tag}", digest=digest)})
        job = replace(
            started.job,
            cell=replace(cell, chip=replace(cell.chip, base=f"{name}:{tag}")),
            lock=locked,
            registry=f"{proxy.url}/mounted",
        )
        ports = replace(started.context.ports, docker=nothing, runner=nothing, registry=OciRegistry())
        proxy.calls.clear()
        received, returned = proxy.received, proxy.returned
        made = image.run(job, replace(started.context, ports=ports))
        received, returned = proxy.received - received, proxy.returned - returned
        assert OciRegistry().digest(made.repository, made.digest) == made.digest
        assert made.base == f"{name}@{digest}"
    layers = json.loads(OciRegistry().manifest(f"{host}:{port}/{name.partition('/')[2]}", digest).body)["layers"]
    for layer in layers:
        assert [call for call in proxy.calls if f"mount={layer['digest'].replace(':', '%3A')}" in call]
        assert not [call for call in proxy.calls if f"GET /v2/{name.partition('/')[2]}/blobs/{layer['digest']}" in call]
    assert returned < 100_000, "manifest, configuration and headers; the base has 60 MB"
    assert received == made.pushed_bytes


@pytest.mark.slow  # builds the image with Docker, and reads all files of both
def test_the_dockerfile_that_readers_get_gives_the_same_files(started: Started, engine: Engine) -> None:
    wheels = wheelhouse.of(started.job, started.context)
    plan = build_context.draw(started.job, wheels, started.image.base, started.image.base_id)
    context, tag = io.BytesIO(), f"flagrelease-test-dockerfile:{uuid.uuid4().hex[:8]}"
    build_context.write(plan, context)
    context.seek(0)
    engine.build(context, tag=tag, args={"BASE": started.image.base}, line=lambda _line: None)
    try:
        built, assembled = image_tree.tree(engine, tag), image_tree.tree(engine, started.image.reference)
        compiled = [image_tree.bytecode(engine, one, "cpython-311") for one in (tag, started.image.reference)]
    finally:
        engine.untag(tag)
    differing = {path for path in built.keys() | assembled.keys() if built.get(path) != assembled.get(path)}
    assert {path: (built.get(path), assembled.get(path)) for path in sorted(differing)[:20]} == {}
    assert len(built) > 10_000, "all of the base and of the packages"
    assert compiled[0] == compiled[1]
    assert len(compiled[0]) > 1000


class Unsent(OciRegistry):
    """A registry to which nothing of an image may be sent."""

    def write_blob(self, *_arguments: Any) -> Any:
        raise AssertionError("an image with a secret is sent")

    put_manifest = push_blob = write_blob  # type: ignore[assignment]


def test_a_secret_in_a_file_of_the_image_is_refused_before_anything_is_sent(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "a-very-long-canary")
    cell = given.cell(args={"threads": 1, "api_key": "a-very-long-canary"}, max_model_len=2048)
    ports = replace(started.context.ports, registry=Unsent())
    with pytest.raises(GateFailed, match=r"serve\.yaml contains the value of \$SOME_TOKEN"):
        image.run(replace(started.job, cell=cell), replace(started.context, ports=ports))


@pytest.mark.slow
@pytest.mark.parametrize("stack", ["flagos", "native"])
def test_with_the_hosts_network_the_engine_answers_this_machine_only(started: Started, stack: Stack) -> None:
    chip = started.job.cell.chip
    cell = replace(started.job.cell, chip=replace(chip, container=replace(chip.container, network="host")))
    job = replace(started.job, cell=cell)
    request = ServeRequest(stack=stack, image=started.image, weights=started.weights)
    with served(job, started.after(), request) as server:
        port = server.port_inside
        tables = "".join(Path(f"/proc/net/{table}").read_text() for table in ("tcp", "tcp6"))
        listening = re.findall(rf"(?m)^ *\d+: ([0-9A-F]+):{port:04X} [0-9A-F:]+ 0A ", tables)
        assert listening == ["0100007F"]


def test_the_packages_of_the_base_are_recorded(started: Started) -> None:
    (listed,) = (file for file in started.image.evidence if file.name == "system-packages.json")
    system = json.loads(started.context.evidence.read(listed))
    assert (system["id"], system["version"]) == ("debian", "12")
    assert {"libc6", "python3"} <= {package["name"] for package in system["packages"]}
    assert system["packages"] == sorted(system["packages"], key=lambda package: tuple(package.values()))


def test_smoke_passes_and_gives_what_the_card_needs(started: Started) -> None:
    result = smoke.run(started.job, started.after())
    assert [check for check in result.checks if not check.passed] == []
    names = {check.name for check in result.checks}
    assert {"streaming", "determinism", "too long prompt", "at once"} <= names
    assert {"card: docker run", "card: download", "card: Python, streaming", "card: AnythingLLM"} <= names
    assert result.docker_run[-1] == started.image.reference
    assert "--publish=8000:8000" in result.docker_run
    assert result.environment["Docker Engine"]
    assert set(result.commands) == {"download", "verify", "pull", "wait", "chat", "python", "python, streaming"}
    assert result.not_run == {}
    report = next(file for file in result.evidence if file.name == "card-commands.json")
    ran = json.loads(started.context.evidence.read(report))["run"]
    assert {each["name"]: each["text"] for each in ran} == result.commands
    assert started.context.ports.runner.reap(started.job.cell.id, started.context.workspace.root) == 0


@pytest.mark.slow  # test_without_docker releases so
def test_processes_serve_the_same_without_docker_and_registry(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = ProcessRunner(started.context.workspace)
    given.need_machine(runner, started.job.cell.chip.python)
    nothing: Any = None
    ports = replace(started.context.ports, runner=runner, docker=nothing, registry=nothing)
    context = replace(started.after(), ports=ports)
    job = replace(started.job, runner="process")
    laid_out = image.run(job, context)
    assert (laid_out.runner, laid_out.pushed_bytes) == ("process", 0)
    assert laid_out.base == runner.machine.name
    assert image.run(job, context) == laid_out
    for name in ("flag-scale", "xllamacpp"):
        assert laid_out.versions[name] == started.image.versions[name]
    look = Look(workspace=context.workspace, evidence=context.evidence)
    assert image.intact(laid_out, look) == ""
    monkeypatch.setenv(card_commands.OFFLINE, "1")
    result = smoke.run(job, after(context, image=laid_out))
    assert [check for check in result.checks if not check.passed] == []
    assert set(result.skipped) == {"card: docker run", "card: docker pull", "card: download"}
    assert {"FlagScale in effect", "manifest", "card: curl", "card: Python"} <= {one.name for one in result.checks}
    assert set(result.commands) == {"wait", "chat", "python", "python, streaming"}
    assert set(result.not_run) == {"pull", "download", "verify"}
    assert result.docker_run[-1] == laid_out.reference
    assert list(context.workspace.processes.iterdir()) == []
    assert image.intact(replace(laid_out, digest="sha256:1"), look) == "its folder is missing"


@pytest.mark.slow  # a server of its own
def test_smoke_finds_an_image_that_is_not_the_one_that_was_built(started: Started) -> None:
    other = started.context.evidence.put("manifest.json", b"{}")
    kept = tuple(one for one in started.image.evidence if one.name != "manifest.json")
    forged = replace(started.image, evidence=(*kept, other))
    with pytest.raises(SmokeFailed, match="1 of") as caught:
        smoke.run(started.job, started.after(image=forged))
    assert DOCKER.manifest in caught.value.why
    assert "FAIL manifest" in caught.value.detail


def test_without_weights_it_dies_before_it_is_ready_and_says_why(started: Started) -> None:
    empty = replace(started.weights, folder="empty")
    (started.context.workspace.weights / "empty").mkdir(exist_ok=True)
    context = after(started.context, weights=empty, image=started.image)
    with pytest.raises(DiedBeforeReady) as caught:
        smoke.run(started.job, context)
    assert "is the model folder mounted?" in caught.value.detail


def test_an_image_that_is_gone_is_not_intact(started: Started) -> None:
    look = Look(workspace=Workspace(Path("/x")), evidence=EvidenceStore(Path("/x")), registry=OciRegistry())
    assert image.intact(started.image, look) == ""
    assert image.intact(replace(started.image, digest="sha256:" + "0" * 64), look)
    assert image.intact(started.image, replace(look, registry=None)) == "", "nothing is asked"


def test_a_registry_that_refuses_costs_no_work(started: Started) -> None:
    class Unasked(Engine):
        def image(self, _reference: str) -> Any:
            raise AssertionError("the base image is looked for")

    context = replace(started.context, ports=replace(started.context.ports, docker=Unasked()))
    with standing_in(Store(login=("a", "b"))) as host, pytest.raises(RegistryDenied):
        image.run(replace(started.job, registry=f"{host}/x"), context)


def test_a_base_that_is_missing_says_how_to_get_it(started: Started) -> None:
    absent = {"cpu": LockedChip(base="flagrelease-absent:1", why="made here")}
    cell = replace(started.job.cell, chip=replace(started.job.cell.chip, base="flagrelease-absent:1"))
    job = replace(started.job, cell=cell, lock=replace(started.job.lock, chips=absent))
    with pytest.raises(EnvironmentFault, match="flagrelease-absent:1 is not on this machine") as caught:
        image.run(job, started.context)
    hint = caught.value.hint
    assert "build or load an image flagrelease-absent:1 on this machine" in hint, "`make base` makes another"


@pytest.mark.slow  # three servers of the real model
def test_the_token_gate_tells_a_damaged_model_from_the_server_s_own_noise(started: Started) -> None:
    context = started.after()
    weights_folder = started.context.workspace.weights
    damaged = replace(started.weights, folder="damaged")
    (weights_folder / "damaged").mkdir()
    for path in (weights_folder / started.weights.folder).glob("*.gguf"):
        data = bytearray(path.read_bytes())
        middle = slice(len(data) // 2, len(data) // 2 + (256 << 10))
        data[middle] = bytes(byte ^ 1 for byte in data[middle])  # the last bit of weights: they stay finite
        (weights_folder / "damaged" / path.name).write_bytes(data)
    prompts = tuple(
        token_gate.Prompt(name=f"b/all/{n}", messages=({"role": "user", "content": f"What is {n} and {n + 2}?"},))
        for n in range(8)
    )
    plan = token_gate.Plan(tokens=8 * token_gate.LENGTH, longest=200, at_once=1, floor_at_once=4)
    probe = partial(given_served, started, context)
    with probe(started.weights, "native") as source:
        reference = token_gate.refer(source, prompts, plan, lambda _: None)
        same = token_gate.compare(source, prompts, reference, plan, lambda _: None)
    with probe(damaged, "flagos") as source:
        other = token_gate.compare(source, prompts, reference, plan, lambda _: None)
    assert (same.distance.mean, same.distance.same_top) == (0, 1)
    assert same.distance.tokens == plan.tokens
    assert other.distance.mean > 5 * reference.floor.mean
    assert other.distance.same_top < 1


@contextmanager
def given_served(
    started: Started, context: Context, weights: results.Weights, stack: Stack
) -> Iterator[ServedProbabilities]:
    request = ServeRequest(image=started.image, weights=weights, stack=stack)
    with served(started.job, context, request) as server, ServedProbabilities(server.base_url, server.model) as source:
        yield source
