"""Checks manifests against the fields of KubeRay's resources.

Names, types and required fields are copied from KubeRay's API (ray-operator/apis/ray/v1/raycluster_types.go
and rayjob_types.go), as far as our manifests are likely to use them. Kubernetes' schemas check the pods.
"""

from collections.abc import Iterator
from typing import Any

POD = "a pod's template"
_COMMON = {"rayStartParams": dict, "template": POD, "labels": dict, "resources": dict}
HEAD = {**_COMMON, "serviceType": str, "headService": dict, "enableIngress": bool}
WORKERS = {
    **_COMMON,
    **{"groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int, "numOfHosts": int},
    **{"idleTimeoutSeconds": int, "suspend": bool, "scaleStrategy": dict},
}
CLUSTER = {
    **{"rayVersion": str, "enableInTreeAutoscaling": bool, "suspend": bool, "managedBy": str},
    "authOptions": {"mode": ("token", "disabled"), "secretName": str, "enableK8sTokenAuth": bool},
    "autoscalerOptions": {
        **{"idleTimeoutSeconds": int, "upscalingMode": ("Default", "Aggressive", "Conservative")},
        **{"resources": dict, "image": str, "imagePullPolicy": str, "env": list, "envFrom": list},
    },
    **{"headServiceAnnotations": dict, "gcsFaultToleranceOptions": dict, "upgradeStrategy": dict},
    **{"headGroupSpec": HEAD, "workerGroupSpecs": [WORKERS]},
}
JOB = {
    **{"entrypoint": str, "runtimeEnvYAML": str, "jobId": str, "metadata": dict, "clusterSelector": dict},
    "submissionMode": ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    **{"activeDeadlineSeconds": int, "backoffLimit": int, "ttlSecondsAfterFinished": int},
    **{"shutdownAfterJobFinishes": bool, "suspend": bool, "entrypointNumCpus": (int, float)},
    **{"submitterConfig": {"backoffLimit": int}, "submitterPodTemplate": POD, "rayClusterSpec": CLUSTER},
}
REQUIRED = {id(HEAD): {"template"}, id(WORKERS): {"groupName", "template"}, id(CLUSTER): {"headGroupSpec"}}
SPECS = {"RayCluster": CLUSTER, "RayJob": JOB}


def faults(manifest: dict[str, Any]) -> list[str]:
    """List the faults of a RayCluster or a RayJob, except those of its pods."""
    problems = [] if manifest.get("apiVersion") == "ray.io/v1" else ["apiVersion is not ray.io/v1"]
    problems += [] if manifest["metadata"].get("name") else ["metadata.name is missing"]
    problems += [
        f"{key} is no field" for key in manifest if key not in ("apiVersion", "kind", "metadata", "spec")
    ]
    return problems + list(_faults(manifest["spec"], SPECS[manifest["kind"]], "spec"))


def _faults(node: Any, declared: Any, place: str) -> Iterator[str]:
    if declared == POD:
        return
    if isinstance(declared, dict):
        if not isinstance(node, dict):
            yield f"{place} is no mapping"
            return
        yield from (f"{place}.{name} is missing" for name in REQUIRED.get(id(declared), set()) - set(node))
        for name, value in node.items():
            if name not in declared:
                yield f"{place}.{name} is no field"
            else:
                yield from _faults(value, declared[name], f"{place}.{name}")
    elif isinstance(declared, list):
        for number, item in enumerate(node):
            yield from _faults(item, declared[0], f"{place}[{number}]")
    elif isinstance(declared, tuple) and isinstance(declared[0], str):
        if node not in declared:
            yield f"{place} is none of {declared}"
    elif not isinstance(node, declared) or (isinstance(node, bool) and declared is int):
        yield f"{place} is of another type"


def pods(node: Any) -> Iterator[dict[str, Any]]:
    """Yield the pod templates of a manifest as pods."""
    if isinstance(node, dict):
        if isinstance(template := node.get("template"), dict) and "spec" in template:
            metadata = {"name": "pod", **template.get("metadata", {})}
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        for value in node.values():
            yield from pods(value)
    elif isinstance(node, list):
        for value in node:
            yield from pods(value)
