"""The Kubernetes manifests, without a cluster: what is only rendered, and what Kubernetes would make of it."""

import json
import re
import shutil
import unittest

import manifests
from manifests import Place, named, of_kind, selects, workloads
from stack import ROOT, run

K8S = ROOT / "k8s"
NAMESPACE = "email-tracker"
SERVICES = ["pixel", "recorder", "dashboard"]
LABEL = "app.kubernetes.io/"


def source(path):
    return (ROOT / path).read_text()


def duration(path, name):
    """Seconds of a constant of the code; the first of several."""
    found = re.search(rf"const {name}: .*?Duration::from_secs\((\d+)\)", source(path), re.DOTALL)
    return int(found[1])


def quantity(text):
    """The number of an amount of memory or disk."""
    number, unit = re.fullmatch(r"(\d+)([KMG]i)B?", text).groups()
    return int(number) * 1024 ** ("KMG".index(unit[0]) + 1)


def documented_settings():
    """The variables that docs/settings.md has for each program."""
    sections = re.split(r"^## ", source("docs/settings.md"), flags=re.MULTILINE)[1:]
    found = {}
    for section in sections:
        title, _, text = section.partition("\n")
        names = set()
        for line in re.findall(r"^\| `(\w+)` .*$", text, re.MULTILINE):
            names.add(line)
        names |= set(re.findall(r"also `(\w+_FILE)`", text))
        found[title] = names
    return found


class Kubernetes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.said = manifests.validate()
        cls.cases = manifests.rendered()
        cls.compose = manifests.read_yaml(ROOT / "docker-compose.yml")["services"]

    def each(self, *wanted):
        """The objects of each combination whose name begins so; what fails then says which it was."""
        chosen = [name for name in self.cases if not wanted or name.startswith(wanted)]
        self.assertTrue(chosen)
        for self.case in chosen:
            yield self.cases[self.case]
        self.case = None

    case = None

    def _formatMessage(self, msg, standardMsg):
        message = super()._formatMessage(msg, standardMsg)
        return f"in {self.case}: {message}" if self.case else message

    def overlays(self):
        return self.each("trial", "production")

    # --- Schemas and policies

    def test_every_combination_is_valid(self):
        for word in ["valid for Kubernetes 1.34", "1.37", "checkov:"]:
            self.assertIn(word, self.said)
        self.assertGreater(len(self.cases), 20)

    def test_every_pod_is_taken_where_restricted_is_enforced(self):
        for objects in self.each():
            for workload in workloads(objects):
                with self.subTest(workload.name):
                    self.assertEqual(list(manifests.breaks_restricted(workload.pod)), [])
                    for container in workload.containers:
                        self.assertIs(container["securityContext"]["readOnlyRootFilesystem"], True)
        for objects in self.overlays():
            labels = named(objects, "Namespace", NAMESPACE)["metadata"]["labels"]
            for mode in ["enforce", "audit", "warn"]:
                self.assertEqual(labels[f"pod-security.kubernetes.io/{mode}"], "restricted")

    def test_no_pod_has_a_token_of_the_cluster(self):
        for objects in self.each():
            accounts = {thing["metadata"]["name"]: thing for thing in of_kind(objects, "ServiceAccount")}
            for account in accounts.values():
                self.assertIs(account["automountServiceAccountToken"], False)
            for workload in workloads(objects):
                self.assertIs(workload.pod["automountServiceAccountToken"], False)
                self.assertIs(workload.pod["enableServiceLinks"], False)
                if workload.component == "drain-spool":
                    accounts = {thing["metadata"]["name"] for thing in of_kind(self.cases["base"], "ServiceAccount")}
                self.assertIn(workload.pod["serviceAccountName"], accounts)

    # --- Selectors, ports and probes

    def test_selectors_find_what_they_are_for(self):
        for objects in self.each():
            pods = workloads(objects)
            for workload in pods:
                if "selector" in workload.spec:
                    found = [other.name for other in pods if selects(workload.spec["selector"], other.labels)]
                    self.assertEqual(found, [workload.name])
                for spread in workload.pod.get("topologySpreadConstraints", []):
                    self.assertEqual(spread["whenUnsatisfiable"], "ScheduleAnyway")
                    self.assertTrue(selects(spread["labelSelector"], workload.labels))
            for service in of_kind(objects, "Service"):
                selector = {"matchLabels": service["spec"]["selector"]}
                self.assertEqual(len([pod for pod in pods if selects(selector, pod.labels)]), 1)
            for budget in of_kind(objects, "PodDisruptionBudget"):
                found = [pod.name for pod in pods if selects(budget["spec"]["selector"], pod.labels)]
                self.assertEqual(found, [budget["metadata"]["name"]])
                self.assertEqual(budget["spec"]["maxUnavailable"], 1)
            for monitor in of_kind(objects, "PodMonitor"):
                found = {pod.component for pod in pods if selects(monitor["spec"]["selector"], pod.labels)}
                self.assertEqual(found, set(SERVICES) if monitor["metadata"]["name"] == "email-tracker" else set())

    def test_selectors_and_volumes_have_no_label_that_changes(self):
        for objects in self.each():
            for workload in workloads(objects):
                selector = workload.spec.get("selector", {}).get("matchLabels", {})
                templates = workload.spec.get("volumeClaimTemplates", [])
                for labels in [selector, *(claim["metadata"]["labels"] for claim in templates)]:
                    self.assertLessEqual(set(labels), {f"{LABEL}name", f"{LABEL}component"})

    def test_every_port_that_is_named_exists(self):
        for objects in self.each():
            pods = workloads(objects)
            services = {}
            for service in of_kind(objects, "Service"):
                spec = service["spec"]
                (pod,) = [pod for pod in pods if selects({"matchLabels": spec["selector"]}, pod.labels)]
                for port in spec["ports"]:
                    self.assertEqual(pod.ports[port["targetPort"]], port["port"])
                services[service["metadata"]["name"]] = {port["name"]: port["port"] for port in spec["ports"]}
            for ingress in of_kind(objects, "Ingress"):
                for path in ingress["spec"]["rules"][0]["http"]["paths"]:
                    backend = path["backend"]["service"]
                    self.assertIn(backend["port"]["name"], services[backend["name"]])
            for route in of_kind(objects, "HTTPRoute"):
                for rule in route["spec"]["rules"]:
                    for backend in rule.get("backendRefs", []):
                        self.assertIn(backend["port"], services[backend["name"]].values())
            for monitor in of_kind(objects, "PodMonitor"):
                for pod in pods:
                    if selects(monitor["spec"]["selector"], pod.labels):
                        self.assertIn(monitor["spec"]["podMetricsEndpoints"][0]["port"], pod.ports)
            for workload in pods:
                if workload.kind == "StatefulSet":
                    headless = named(objects, "Service", workload.spec["serviceName"])["spec"]
                    self.assertEqual(headless["clusterIP"], "None")

    def test_probes_ask_the_admin_port_for_what_it_has(self):
        routes = set(re.findall(r'\.route\("(/[\w-]+)"', source("crates/service-kit/src/admin.rs")))
        patience = duration("crates/service-kit/src/admin.rs", "CHECK_TIMEOUT")
        for objects in self.each("base", "trial", "production"):
            for workload in workloads(objects):
                if workload.component not in SERVICES:
                    continue
                (container,) = workload.containers
                for probe in ["startupProbe", "livenessProbe", "readinessProbe"]:
                    get = container[probe]["httpGet"]
                    # Liveness and start are no matter of what lies behind: a database that is away restarts nobody.
                    self.assertEqual(get["path"], "/ready" if probe == "readinessProbe" else "/live")
                    self.assertIn(get["path"], routes)
                    self.assertEqual(workload.ports[get["port"]], 9090)
                    self.assertGreater(container[probe]["timeoutSeconds"], patience)

    def test_recorders_are_found_one_by_one(self):
        for objects in self.overlays():
            self.assertEqual(named(objects, "Service", "recorder")["spec"]["clusterIP"], "None")
            pixel = self.pod_of(objects, "pixel")
            self.assertEqual(pixel.environment(pixel.containers[0])["RECORDER_URL"], "http://recorder:50051")

    def pod_of(self, objects, component):
        (found,) = [workload for workload in workloads(objects) if workload.component == component]
        return found

    # --- A stop, an update, more and fewer of them

    def test_a_stop_has_the_time_that_it_takes(self):
        ends = duration("crates/service-kit/src/tasks.rs", "ABORT_TIME")
        ends += duration("crates/service-kit/src/program.rs", "LEFTOVERS")
        ends += duration("crates/service-kit/src/telemetry/logging.rs", "LAST_TRACES")
        look_up = duration("crates/recorder-client/src/channel.rs", "LOOK_UP_EVERY")
        for objects in self.overlays():
            for service in SERVICES:
                workload = self.pod_of(objects, service)
                (container,) = workload.containers
                asked = container["lifecycle"]["preStop"]["sleep"]["seconds"]
                grace = int(workload.environment(container)["SHUTDOWN_GRACE_SECONDS"])
                self.assertGreaterEqual(workload.pod["terminationGracePeriodSeconds"], asked + grace + ends)
                # A name server may keep the addresses of before for five seconds more.
                self.assertGreaterEqual(asked, look_up + 5)

    def test_an_update_takes_away_nothing_before_the_new_one_is_there(self):
        for objects in self.overlays():
            for service in ["recorder", "dashboard"]:
                spec = named(objects, "Deployment", service)["spec"]
                self.assertEqual(spec["strategy"]["rollingUpdate"]["maxUnavailable"], 0)
                self.assertGreaterEqual(spec["minReadySeconds"], 5)
            pixel = named(objects, "StatefulSet", "pixel")["spec"]
            self.assertEqual(pixel["updateStrategy"]["type"], "RollingUpdate")
            self.assertGreaterEqual(pixel["minReadySeconds"], 5)
            self.assertEqual(pixel["podManagementPolicy"], "Parallel")

    def test_a_spool_outlives_its_pixel_and_has_room(self):
        for objects in self.overlays():
            for workload in workloads(objects):
                if workload.kind == "StatefulSet":
                    kept = {"whenDeleted": "Retain", "whenScaled": "Retain"}
                    self.assertEqual(workload.spec["persistentVolumeClaimRetentionPolicy"], kept)
            pixel = self.pod_of(objects, "pixel")
            (container,) = pixel.containers
            (claim,) = pixel.spec["volumeClaimTemplates"]
            room = quantity(claim["spec"]["resources"]["requests"]["storage"])
            self.assertGreaterEqual(room, 1.5 * quantity(pixel.environment(container)["SPOOL_MAX_BYTES"]))
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            self.assertIn(f"ENV SPOOL_DIR={mounts[claim['metadata']['name']]}\n", source("Dockerfile"))

    def test_the_job_for_an_orphaned_spool_is_as_the_pixel(self):
        (drain,) = workloads(self.cases["drain-spool"])
        pixel = self.pod_of(self.cases["base"], "pixel")
        (own,), (its,) = drain.containers, pixel.containers
        self.assertEqual(own["args"], ["spool", "drain", "/var/lib/email-tracker/spool"])
        self.assertEqual(drain.pod["securityContext"], pixel.pod["securityContext"])
        self.assertEqual(drain.pod["serviceAccountName"], pixel.pod["serviceAccountName"])
        mine, his = drain.environment(own), pixel.environment(its)
        self.assertEqual(mine, {name: his[name] for name in mine})
        self.assertEqual(own["volumeMounts"], its["volumeMounts"])
        (claim,) = [volume for volume in drain.pod["volumes"] if volume["name"] == "spool"]
        self.assertEqual(claim["persistentVolumeClaim"], {"claimName": "spool-pixel-3"})
        # A Job for a volume that nobody named is no valid object.
        raw = run(manifests.TOOLS / "bin" / "kubectl", "kustomize", K8S / "jobs" / "drain-spool")
        self.assertIn("claimName: SPOOL_VOLUME", raw)

    def test_autoscalers_have_what_they_scale_to_themselves(self):
        gauges = re.findall(r"^\| `(\w+)` \| gauge", source("docs/metrics.md"), re.MULTILINE)
        for objects in self.each("base", "trial", "production"):
            scaled = set()
            for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
                target = scaler["spec"]["scaleTargetRef"]
                scaled.add(target["name"])
                self.assertNotIn("replicas", named(objects, target["kind"], target["name"])["spec"])
                self.assertGreaterEqual(scaler["spec"]["minReplicas"], 2)
                for metric in scaler["spec"]["metrics"]:
                    if metric["type"] == "External":
                        self.assertEqual(target["name"], "recorder")
                        self.assertIn(metric["external"]["metric"]["name"], gauges)
            self.assertEqual(scaled, set(SERVICES))
        with_backlog = [name for name, objects in self.cases.items() if '"External"' in json.dumps(objects)]
        self.assertTrue(with_backlog and all("autoscale-by-backlog" in name for name in with_backlog))

    def test_the_database_has_a_connection_for_everyone(self):
        constant = lambda path, name: int(re.search(rf"const {name}: usize = (\d+);", source(path))[1])  # noqa: E731
        workers = int(re.search(r'"RECORDER_WORKERS",\s*"(\d+)"', source("services/recorder/src/settings.rs"))[1])
        each = {
            "recorder": workers
            + constant("services/recorder/src/settings.rs", "SPARE_CONNECTIONS")
            + constant("services/recorder/src/webhooks/deliver.rs", "CONNECTIONS"),
            "dashboard": constant("services/dashboard/src/settings.rs", "POOL_SIZE"),
        }
        for objects in self.overlays():
            most = {
                scaler["metadata"]["name"]: scaler["spec"]["maxReplicas"]
                for scaler in of_kind(objects, "HorizontalPodAutoscaler")
            }
            # While it is updated there is one more of each.
            needed = sum((most[service] + 1) * count for service, count in each.items())
            for cluster in of_kind(objects, "Cluster"):
                allowed = int(cluster["spec"]["postgresql"]["parameters"]["max_connections"])
                self.assertLess(needed, allowed - 20)
            for workload in workloads(objects):
                if workload.component == "database":
                    (option,) = [word for word in workload.containers[0]["args"] if "max_connections" in word]
                    self.assertLess(needed, int(option.partition("=")[2]) - 20)

    # --- Secrets, settings, images

    def test_no_secret_is_in_the_repository_or_in_an_environment(self):
        for objects in self.each():
            self.assertEqual(of_kind(objects, "Secret"), [])
            for workload in workloads(objects):
                for container in workload.containers:
                    for entry in container.get("env", []):
                        self.assertNotIn("valueFrom", entry)
                        if re.search(r"PASSWORD|TOKEN", entry["name"]):
                            self.assertTrue(entry["name"].endswith("_FILE"), entry)
                        if "_URL" in entry["name"] and "://" in entry["value"]:
                            self.assertNotRegex(entry["value"], r"//[^/@]*:[^/@]*@")

    def test_one_command_makes_each_secret_that_is_used_and_no_other(self):
        def made(*words, **variables):
            text = run(K8S / "make-secret", *words, env={"PATH": "/usr/bin:/bin", **variables})
            return dict(re.findall(r"^  (\w+): '(.*)'$", text, re.MULTILINE))

        local = made()
        elsewhere = made(DATABASE="db.example.com/email_tracker", REPLICA="replica.example.com/email_tracker")
        self.assertIn("@replica.example.com", elsewhere["DASHBOARD_DATABASE_URL"])
        self.assertEqual(len(set(local.values()) | set(made().values())), 2 * len(local))
        for value in local.values():
            self.assertRegex(value, "^[0-9a-f]{64}$")
        for objects in self.overlays():
            secrets = elsewhere if "DATABASE_URL_FILE" in json.dumps(objects) else local
            used = set()
            for workload in workloads(objects):
                for volume in workload.pod.get("volumes", []):
                    if volume.get("secret"):
                        self.assertEqual(volume["secret"]["secretName"], "email-tracker")
                        self.assertEqual(volume["secret"]["defaultMode"], 0o440)
                        self.assertIn("fsGroup", workload.pod["securityContext"])
                        used |= {item["key"] for item in volume["secret"]["items"]}
            # The values of before are the operator's to move.
            previous = {key for key in used if key.endswith("_PREVIOUS")}
            self.assertIn(previous, [set(), {"DASHBOARD_TOKEN_PREVIOUS", "RECORDER_TOKEN_PREVIOUS"}])
            # And so are the targets of webhooks.
            self.assertEqual(used - previous - {"WEBHOOKS"}, set(secrets))
        with_owner = made("cnpg")
        self.assertEqual(with_owner["password"], with_owner["POSTGRES_PASSWORD"])
        self.assertEqual(with_owner["username"], "email_tracker_owner")

    def test_each_file_of_a_secret_is_there(self):
        for objects in self.each():
            for workload in workloads(objects):
                volumes = {volume["name"]: volume for volume in workload.pod.get("volumes", [])}
                for container in workload.containers:
                    files = set()
                    for mount in container["volumeMounts"]:
                        for item in volumes.get(mount["name"], {}).get("secret", {}).get("items", []):
                            files.add(f"{mount['mountPath']}/{item['path']}")
                    named_files = {
                        value for name, value in workload.environment(container).items() if name.endswith("_FILE")
                    }
                    self.assertEqual(named_files, files, workload.name)

    def test_every_setting_is_documented(self):
        documented = documented_settings()
        common = documented["Every service"]
        programs = {
            "pixel": documented["Pixel"] | common,
            "recorder": documented["Recorder"] | common,
            "dashboard": documented["Dashboard"] | common,
            "migrate": documented["`email-tracker migrate`"],
            "backup": documented["`email-tracker backup` and `restore`"],
            "drain-spool": {"RECORDER_URL", "RECORDER_TOKEN_FILE"},
        }
        for objects in self.each():
            for workload in workloads(objects):
                if workload.component == "database":
                    continue
                for container in workload.containers:
                    unknown = set(workload.environment(container)) - programs[workload.component]
                    self.assertEqual(unknown, set(), workload.name)

    def test_each_service_is_told_what_compose_tells_it(self):
        for objects in self.overlays():
            for service in [*SERVICES, "migrate"]:
                workload = self.pod_of(objects, service)
                told = {name.removesuffix("_FILE") for name in workload.environment(workload.containers[0])}
                environment = self.compose[service]["environment"]
                # What compose only passes on, or leaves empty by default, has a default in the program.
                needed = {name for name, value in environment.items() if value and ":+" not in value}
                self.assertLessEqual(needed, told)

    def test_images_are_those_of_compose(self):
        dockerfile = source("Dockerfile")
        for objects in self.overlays():
            for workload in workloads(objects):
                for container in workload.containers:
                    name, _, tag = container["image"].rpartition(":")
                    if workload.component == "database":
                        self.assertEqual(container["image"], self.compose["postgres"]["image"])
                        user = str(workload.pod["securityContext"]["runAsUser"])
                        self.assertEqual(f"{user}:{user}", self.compose["postgres"]["user"])
                        continue
                    self.assertEqual(tag, self.version())
                    prefix, _, service = name.rpartition("/")[2].rpartition("-")
                    self.assertEqual(prefix, "email-tracker")
                    target = self.compose[service]["build"]["target"]
                    section = re.search(rf"^FROM \S+ AS {target}\n(.*?)(?=^FROM|\Z)", dockerfile, re.M | re.S)[1]
                    exposed = {int(port) for line in re.findall(r"^EXPOSE (.*)$", section, re.M) for port in line.split()}
                    self.assertEqual(exposed, set(workload.ports.values()))
                    self.assertEqual(container.get("command"), None)
                    if workload.component in self.compose:
                        self.assertEqual(service, workload.component)

    def version(self):
        return re.search(r'^version = "(.*)"', source("Cargo.toml"), re.MULTILINE)[1]

    def test_labels_say_what_each_object_is(self):
        for objects in self.overlays():
            for thing in objects:
                labels = thing["metadata"]["labels"]
                self.assertEqual(labels[f"{LABEL}version"], self.version())
                if thing["kind"] == "Namespace":
                    continue
                self.assertEqual(thing["metadata"]["namespace"], NAMESPACE)
                if thing["kind"] in ("Deployment", "StatefulSet", "Service", "Job", "CronJob"):
                    self.assertIn(f"{LABEL}component", labels)
            for workload in workloads(objects):
                for name in ["name", "component", "instance", "part-of", "managed-by"]:
                    self.assertIn(f"{LABEL}{name}", workload.labels, workload.name)

    def test_memory_leaves_room_above_what_was_measured(self):
        for objects in self.each():
            for workload in workloads(objects):
                for container in workload.containers:
                    resources = container["resources"]
                    self.assertLessEqual({"cpu", "memory"}, set(resources["requests"]))
                    self.assertGreaterEqual(
                        quantity(resources["limits"]["memory"]), 2 * quantity(resources["requests"]["memory"])
                    )
            if any(workload.component == "pixel" for workload in workloads(objects)):
                (pixel,) = self.pod_of(objects, "pixel").containers
                # docs/performance.md: 18.7 MiB at 64 connections; 270 MiB are as many connections as it takes.
                self.assertGreater(quantity(pixel["resources"]["requests"]["memory"]), 3 * 18.7 * 1024**2)
                self.assertGreater(quantity(pixel["resources"]["limits"]["memory"]), 1.25 * 270 * 1024**2)

    # --- The way in

    def public_paths(self):
        """What the Caddyfile leads where."""
        found = {}
        for service in ["pixel", "dashboard"]:
            for path in re.search(rf"@{service} path (.*)", source("Caddyfile"))[1].split():
                found[path.removesuffix("*").rstrip("/") or "/"] = service
        return found

    def test_the_public_paths_and_no_other_lead_in(self):
        for objects in self.overlays():
            led, plain = {}, set()
            for ingress in of_kind(objects, "Ingress"):
                annotations = ingress["metadata"]["annotations"]
                for path in ingress["spec"]["rules"][0]["http"]["paths"]:
                    led[path["path"].rstrip("/")] = path["backend"]["service"]["name"]
                    if annotations["nginx.ingress.kubernetes.io/ssl-redirect"] == "false":
                        plain.add(path["path"])
                self.assertEqual(ingress["spec"]["tls"][0]["secretName"], "email-tracker-tls")
            for route in of_kind(objects, "HTTPRoute"):
                listeners = {parent["sectionName"] for parent in route["spec"]["parentRefs"]}
                for rule in route["spec"]["rules"]:
                    for match in rule["matches"]:
                        path = match["path"]["value"]
                        if "backendRefs" not in rule:
                            # Port 80, whatever nobody else takes.
                            redirect = rule["filters"][0]["requestRedirect"]
                            self.assertEqual((path, listeners, redirect["scheme"]), ("/", {"http"}, "https"))
                            continue
                        led[path.rstrip("/")] = rule["backendRefs"][0]["name"]
                        self.assertIn("https", listeners)
                        if "http" in listeners:
                            plain.add(path)
            self.assertEqual(led, self.public_paths())
            self.assertEqual(plain, {"/t/"})
            for gateway in of_kind(objects, "Gateway"):
                ports = {listener["name"]: listener["port"] for listener in gateway["spec"]["listeners"]}
                self.assertEqual(ports, {"http": 80, "https": 443})
                certificates = gateway["spec"]["listeners"][1]["tls"]["certificateRefs"]
                self.assertEqual(certificates, [{"name": "email-tracker-tls"}])
            for certificate in of_kind(objects, "Certificate"):
                self.assertEqual(certificate["spec"]["secretName"], "email-tracker-tls")
                named(objects, "Issuer", certificate["spec"]["issuerRef"]["name"])

    def test_each_parameter_gets_everywhere(self):
        defaults = dict(re.findall(r'^  ([A-Z_]+): "?([^"\n]*)"?$', (K8S / "overlays/trial/parameters.yaml").read_text(), re.M))
        folder = manifests.TOOLS / "k8s" / "overlays" / "parameters"
        # Without the extras, which have no parameters of their own, but for the monitoring's namespace.
        for name in self.cases:
            if not name.startswith(("trial", "production")) or "backup+" in name:
                continue
            with self.subTest(name):
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(manifests.TOOLS / "k8s" / "overlays" / name, folder)
                changed = {key: f"changed-{key.lower()}" for key in defaults}
                text = (folder / "parameters.yaml").read_text()
                for key, value in defaults.items():
                    text = re.sub(rf"(?m)^  {key}: .*$", f"  {key}: {changed[key]}", text)
                (folder / "parameters.yaml").write_text(text)
                text = run(manifests.TOOLS / "bin" / "kubectl", "kustomize", folder)
                before = json.dumps(self.cases[name])
                for key, value in defaults.items():
                    if key == "DATABASE_NETWORK" or key == "INGRESS_CLASS":
                        # Their values occur in other words too.
                        wanted = "external-database" in name or key == "INGRESS_CLASS" or name == "production"
                        self.assertEqual(changed[key] in text, wanted, key)
                        continue
                    self.assertNotRegex(text, rf"[ /]{re.escape(value)}$", key)
                    # One that is nowhere now was nowhere before.
                    self.assertEqual(changed[key] in text, value in before, key)

    # --- Who may talk to whom

    def places(self, objects):
        found = [
            Place(workload.component, NAMESPACE, workload.labels, workload.ports)
            for workload in [*workloads(objects), *workloads(self.cases["drain-spool"])]
        ]
        for cluster in of_kind(objects, "Cluster"):
            name = cluster["metadata"]["name"]
            found.append(Place(name, NAMESPACE, {"cnpg.io/cluster": name}))
        if of_kind(objects, "Certificate"):
            found.append(Place("solver", NAMESPACE, {"acme.cert-manager.io/http01-solver": "true"}))
        return [
            *found,
            Place("stray", NAMESPACE, {"app": "somebody-else"}),
            Place("ingress", "ingress-nginx", {"app": "controller"}),
            Place("prometheus", "monitoring", {"app": "prometheus"}),
            Place("dns", "kube-system", {"k8s-app": "kube-dns"}),
            Place("system", "kube-system", {"k8s-app": "other"}),
            Place("operator", "cnpg-system", {}),
            Place("elsewhere", "elsewhere", found[0].labels, found[0].ports),
            Place("node-dns", address="169.254.20.10"),
            Place("private", address="10.1.2.3"),
            Place("internet", address="203.0.113.9"),
        ]

    def test_exactly_these_may_talk_to_each_other(self):
        ports = [("UDP", 53), ("TCP", 53)]
        numbers = [80, 443, 5432, 6443, 8000, 8081, 8082, 8089, 9090, 9187, 50051]
        ports += [("TCP", number) for number in numbers] + [("UDP", 8081)]
        for objects in self.overlays():
            places = self.places(objects)
            ours = [place.name for place in places if place.namespace == NAMESPACE]
            self.assertEqual(len(set(ours)), len(ours))
            name_servers = [(dns, f"{kind} 53") for dns in ("dns", "node-dns") for kind in ("UDP", "TCP")]
            expected = {(name, *name_server) for name in ours for name_server in name_servers}
            expected |= {(who, "recorder", "TCP 50051") for who in ("pixel", "drain-spool", "dashboard")}
            expected |= {("ingress", "pixel", "TCP 8081"), ("ingress", "dashboard", "TCP 8082")}
            expected |= {("prometheus", service, "TCP 9090") for service in SERVICES}
            clients = [name for name in ours if name in ("recorder", "dashboard", "migrate", "backup")]
            database = "database" if "database" in ours else "private"
            expected |= {(client, database, "TCP 5432") for client in clients}
            if any(policy["metadata"]["name"] == "recorder-to-webhooks" for policy in of_kind(objects, "NetworkPolicy")):
                expected.add(("recorder", "internet", "TCP 443"))
            if "solver" in ours:
                expected.add(("ingress", "solver", "TCP 8089"))
            clusters = [cluster["metadata"]["name"] for cluster in of_kind(objects, "Cluster")]
            outside = [place.name for place in places if place.namespace != NAMESPACE]
            for cluster in clusters:
                expected |= {(client, cluster, "TCP 5432") for client in clients}
                expected |= {(who, cluster, f"TCP {port}") for who in [*clusters, "operator"] for port in (5432, 8000)}
                expected.add(("prometheus", cluster, "TCP 9187"))
                expected |= {(cluster, name, f"TCP {port}") for name in outside for port in (443, 6443)}
            own = {way for way in manifests.connections(objects, places, ports) if way[0] in ours or way[1] in ours}
            self.assertEqual(own - expected, set())
            self.assertEqual(expected - own, set())

    # --- Monitoring

    def test_the_rules_are_those_of_observability(self):
        groups = []
        for file in ["recording", "alerts"]:
            groups += manifests.read_yaml(ROOT / "observability" / "rules" / f"{file}.yml")["groups"]
        # Its file is read by a node_exporter of the machine; a CronJob is looked at instead.
        wanted = [group for group in groups if group["name"] != "email-tracker-backup"]
        self.assertEqual(len(wanted), len(groups) - 1)
        for objects in self.overlays():
            rules = {thing["metadata"]["name"]: thing["spec"]["groups"] for thing in of_kind(objects, "PrometheusRule")}
            if not rules:
                continue
            self.assertEqual(rules["email-tracker"], wanted)
            alerts = [rule["alert"] for group in rules["email-tracker-kubernetes"] for rule in group["rules"]]
            left_out = [group for group in groups if group not in wanted]
            self.assertIn(left_out[0]["rules"][0]["alert"], alerts)
            monitor = named(objects, "PodMonitor", "email-tracker")
            (job,) = {
                rule["replacement"]
                for rule in monitor["spec"]["podMetricsEndpoints"][0]["relabelings"]
                if rule["targetLabel"] == "job"
            }
            scraped = manifests.read_yaml(ROOT / "observability" / "prometheus.yml")["scrape_configs"]
            self.assertIn(job, [config["job_name"] for config in scraped])

    # --- The manual

    def test_the_manual_knows_every_part(self):
        manual = source("docs/kubernetes.md")
        for kind, cell in [("overlays", "`k8s/overlays/{}`"), ("components", "`{}`"), ("jobs", "k8s/jobs/{}")]:
            for folder in (K8S / kind).iterdir():
                self.assertIn(cell.format(folder.name), manual)
        for path in re.findall(r"\bk8s/[\w./-]+\w", manual):
            self.assertTrue((ROOT / path).exists(), path)
        rows = " ".join(re.findall(r"^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \|", manual, re.MULTILINE))
        for overlay in ["trial", "production"]:
            parameters = re.findall(r"^  ([A-Z_]+): ", source(f"k8s/overlays/{overlay}/parameters.yaml"), re.MULTILINE)
            for parameter in parameters:
                self.assertIn(f"`{parameter}`", rows)
        headings = {
            re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.*)$", manual, re.MULTILINE)
        }
        rules = source("k8s/components/monitoring/rules-kubernetes.yaml")
        links = re.findall(r"docs/kubernetes\.md#([\w-]+)", rules) + re.findall(r"\]\(#([\w-]+)\)", manual)
        for page in ["README.md", "docs/operations.md"]:
            links += re.findall(r"kubernetes\.md#([\w-]+)\)", source(page))
        self.assertLessEqual(set(links), headings)

    def test_the_manual_tells_who_may_talk_to_whom(self):
        manual = source("docs/kubernetes.md")
        table = manual[manual.index("| from | to | port |") :].partition("\n\n")[0]
        told = {int(number) for number in re.findall(r"\b\d{2,5}\b", table)}
        opened = set()
        for objects in self.overlays():
            ports = {name: number for workload in workloads(objects) for name, number in workload.ports.items()}
            # Two services have a port of the same name.
            ports["http"] = 8081
            for policy in of_kind(objects, "NetworkPolicy"):
                for rule in policy["spec"].get("ingress", []) + policy["spec"].get("egress", []):
                    opened |= {ports.get(port["port"], port["port"]) for port in rule["ports"]}
        self.assertEqual(opened | {8082}, told)
