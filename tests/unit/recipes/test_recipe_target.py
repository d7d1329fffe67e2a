"""Adding a kind of target takes the places that the README names."""

from pathlib import Path

from support.package_copy import Copy, recipe

PARROT = """
from flagrelease.stages.publish.publisher import Place, Publisher, Shipment, Steps


class _Parrot:
    def configured(self, place: Place) -> None:
        pass

    def check(self, place: Place) -> None:
        pass

    def publish(self, shipment: Shipment, place: Place, steps: Steps) -> str:
        steps.begin("card")
        return f"{place.at}: {shipment.name(place)} has {', '.join(shipment.files)}"


PUBLISHER: Publisher = _Parrot()
"""

USED = """
from pathlib import Path

from support import finished_cell as given
from flagrelease.config.strict_yaml import loads
from flagrelease.config.targets import Target
from flagrelease.errors import ConfigError
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.meter import Meter
from flagrelease.ports.progress import Silent
from flagrelease.stages.publish import deliver
from flagrelease.stages.publish.publisher import Shipment

try:
    loads(b"kind: parot\\nto: cage\\n", Target)
except ConfigError as error:
    print(error.hint)
target = loads(b"kind: parrot\\nto: cage\\n", Target)
release, clock = given.record(), SystemClock()
shipment = Shipment(
    release=release, tag=release.tag, files={"README.md": Path("x")}, registry=None, clock=clock, meter=Meter(clock)
)
(done,), failed = deliver.send(shipment, deliver.places({"polly": target}, private=False), Silent())
print(done.target, done.place, failed)
"""


def test_a_target_to_publish_to(tmp_path: Path) -> None:
    package, table = Copy(tmp_path), "stages/publish/targets/__init__.py"
    package.write("stages/publish/targets/parrot.py", PARROT)
    module = package.module("stages/publish/targets/parrot.py").rpartition(".")[0]
    package.insert(table, "from flagrelease.stages.publish.targets", f"from {module} import parrot")
    package.insert(table, "PUBLISHERS: Mapping", '    "parrot": parrot.PUBLISHER,')
    kind = 'TargetKind(form="CAGE", pattern=re.compile("[a-z]+"), name="{Model}")'
    package.insert("config/targets.py", "TARGETS: Mapping", f'    "parrot": {kind},')
    package.insert("watching/watch.py", "INSPECTORS: Mapping", '    "parrot": folder.inspect,')
    assert package.touched == recipe("a target to publish to", "parrot")
    assert package.run(USED) == "did you mean 'parrot'?\npolly cage: SmolLM2-135M-Instruct has README.md {}\n"
