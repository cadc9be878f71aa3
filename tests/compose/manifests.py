"""What k8s/validate rendered, and what Kubernetes makes of it: whose selector finds whom, who may talk to whom, and which
pods a namespace that enforces `restricted` takes."""

import ipaddress
import json
from dataclasses import dataclass, field

from stack import ROOT, run

TOOLS = ROOT / "target" / "k8s-validate"


def validate():
    """Renders and checks everything; its output."""
    return run(ROOT / "k8s" / "validate", timeout=1500)


def rendered():
    """Each combination of overlay and components, by name: its objects."""
    return {file.stem: json.loads(file.read_text()) for file in sorted((TOOLS / "rendered").glob("*.json"))}


def read_yaml(file):
    """A file of one document."""
    program = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))"
    return json.loads(run(TOOLS / "bin" / "python", "-c", program, file))


def of_kind(objects, *kinds):
    return [thing for thing in objects if thing["kind"] in kinds]


def named(objects, kind, name):
    (found,) = [thing for thing in of_kind(objects, kind) if thing["metadata"]["name"] == name]
    return found


@dataclass
class Workload:
    """Something that makes pods."""

    kind: str
    name: str
    spec: dict
    template: dict
    namespace: str = ""

    @property
    def labels(self):
        return self.template["metadata"]["labels"]

    @property
    def pod(self):
        return self.template["spec"]

    @property
    def component(self):
        return self.labels["app.kubernetes.io/component"]

    @property
    def containers(self):
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    @property
    def ports(self):
        """Numbers by name."""
        return {
            port["name"]: port["containerPort"] for container in self.containers for port in container.get("ports", [])
        }

    def environment(self, container):
        return {entry["name"]: entry.get("value") for entry in container.get("env", [])}


def workloads(objects):
    found = []
    for thing in of_kind(objects, "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod"):
        spec = thing["spec"]
        if thing["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        template = thing if thing["kind"] == "Pod" else spec["template"]
        metadata = thing["metadata"]
        found.append(Workload(thing["kind"], metadata["name"], spec, template, metadata.get("namespace", "")))
    return found


# --- Selectors


def selects(selector, labels):
    """Whether a label selector finds these labels. The empty one finds everything."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        has, value = rule["key"] in labels, labels.get(rule["key"])
        holds = {
            "In": lambda: has and value in rule["values"],
            "NotIn": lambda: value not in rule["values"],
            "Exists": lambda: has,
            "DoesNotExist": lambda: not has,
        }[rule["operator"]]()
        if not holds:
            return False
    return True


# --- Who may talk to whom


@dataclass
class Place:
    """One end of a connection: a pod, in whatever namespace, or an address outside of the cluster."""

    name: str
    namespace: str = ""
    labels: dict = field(default_factory=dict)
    ports: dict = field(default_factory=dict)
    address: str = ""


def port_matches(wanted, protocol, number, place):
    if wanted.get("protocol", "TCP") != protocol:
        return False
    port = wanted.get("port")
    if port is None:
        return True
    if isinstance(port, str):
        return place.ports.get(port) == number
    return port <= number <= wanted.get("endPort", port)


def peer_matches(peer, place, namespace):
    if "ipBlock" in peer:
        if not place.address:
            return False
        address = ipaddress.ip_address(place.address)
        inside = address in ipaddress.ip_network(peer["ipBlock"]["cidr"])
        return inside and not any(address in ipaddress.ip_network(part) for part in peer["ipBlock"].get("except", []))
    if not place.namespace:
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": place.namespace}):
            return False
    elif place.namespace != namespace:
        return False
    return selects(peer.get("podSelector", {}), place.labels)


def allows(policies, direction, pod, other, protocol, number):
    """Whether the policies that find `pod` let it be talked to (Ingress) by `other`, or talk to it (Egress).

    As Kubernetes has it: without a policy of that direction everything is allowed, else what any of them allows.
    """
    peers, rules = ("from", "ingress") if direction == "Ingress" else ("to", "egress")
    listener = pod if direction == "Ingress" else other
    restricted = False
    for policy in policies:
        spec = policy["spec"]
        if policy["metadata"].get("namespace", "") != pod.namespace or not selects(spec["podSelector"], pod.labels):
            continue
        kinds = spec.get("policyTypes") or (["Ingress", "Egress"] if "egress" in spec else ["Ingress"])
        if direction not in kinds:
            continue
        restricted = True
        for rule in spec.get(rules, []):
            who = not rule.get(peers) or any(peer_matches(peer, other, pod.namespace) for peer in rule[peers])
            where = not rule.get("ports") or any(
                port_matches(port, protocol, number, listener) for port in rule["ports"]
            )
            if who and where:
                return True
    return not restricted


def connections(objects, places, ports):
    """Every connection that the policies allow: (from, to, port) with ports as `TCP 8081`."""
    policies = of_kind(objects, "NetworkPolicy")
    found = set()
    for source in places:
        for target in places:
            if source is target and source.address:
                continue
            for protocol, number in ports:
                if source.namespace and not allows(policies, "Egress", source, target, protocol, number):
                    continue
                if target.namespace and not allows(policies, "Ingress", target, source, protocol, number):
                    continue
                found.add((source.name, target.name, f"{protocol} {number}"))
    return found


# --- Pod Security Standards

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
}


def breaks_restricted(pod):
    """What of a pod the level `restricted` forbids, the levels below it included: lines of text, none if it is taken."""
    whole = pod.get("securityContext", {})
    containers = [*pod.get("initContainers", []), *pod["containers"], *pod.get("ephemeralContainers", [])]
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield name
    if whole.get("windowsOptions", {}).get("hostProcess"):
        yield "hostProcess"
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            yield f"volume {volume['name']}: {kinds}"
    for sysctl in whole.get("sysctls", []):
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    if whole.get("runAsUser") == 0:
        yield "runAsUser 0"
    if whole.get("seccompProfile", {}).get("type") == "Unconfined":
        yield "seccompProfile Unconfined"
    for container in containers:
        own = container.get("securityContext", {})
        for problem in container_breaks_restricted(container, own, whole):
            yield f"container {container['name']}: {problem}"


def container_breaks_restricted(container, own, whole):
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities that are not dropped"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities that are added"
    if own.get("runAsNonRoot", whole.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot"
    if own.get("runAsUser") == 0:
        yield "runAsUser 0"
    profile = own.get("seccompProfile", whole.get("seccompProfile", {})).get("type")
    if profile not in ("RuntimeDefault", "Localhost"):
        yield f"seccompProfile {profile}"
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
    for options in (own.get("seLinuxOptions", {}), whole.get("seLinuxOptions", {})):
        if options.get("type", "") not in ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"):
            yield f"seLinuxOptions type {options['type']}"
        if options.get("user") or options.get("role"):
            yield "seLinuxOptions user or role"
    for profile in (own.get("appArmorProfile", {}), whole.get("appArmorProfile", {})):
        if profile.get("type", "RuntimeDefault") not in ("RuntimeDefault", "Localhost"):
            yield "appArmorProfile"
    for port in container.get("ports", []):
        if port.get("hostPort"):
            yield f"hostPort {port['hostPort']}"
    hooks = container.get("lifecycle", {}).values()
    probes = [container.get(probe, {}) for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
    for handler in [*hooks, *probes]:
        for kind in ("httpGet", "tcpSocket"):
            if handler.get(kind, {}).get("host"):
                yield f"{kind} to a host"
