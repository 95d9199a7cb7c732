"""A sweep that is nothing but attacks: every name, message, folder and command in it is one."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from sweeps import CURVE, failure, layers_csv, pair, profile, result, upsampling

from dynfilters.experiments.results import LAYERS, RESULT
from security.attacks import SCRIPT, TEXTS

# A picture, where it does not matter which.
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


def hostile_job(text: str, job: dict) -> dict:
    """The job with `text` wherever a text may be, and as the name of whatever has one."""
    job |= {"filter": text, "model": text, "data": text, "device": text, "seed": text}
    job |= {"config_hash": text, "versions": {text: text, "torch": text}}
    settings = {key: {text: text} for key in ("model", "data", "optim", "measure", "probe")}
    job["config"] = {**job["config"], **settings, "filter": {"name": text, text: text}, text: text}
    job["metrics"] = {**job["metrics"], text: 0.5}
    return job


def hostile(sweep: Path) -> Path:
    """A sweep in which every text is an attack, by job; folders and commands are as well."""
    jobs = [*pair([0.96, 0.97, 0.95], [0.90, 0.91, 0.90])]
    for text in TEXTS.values():
        jobs.append(hostile_job(text, result(text, text, 0, 0.5, {"spatial": 1.0, text: 2.0})))
        failed = hostile_job(text, failure(filter=text, activation=text))
        failed["error"] = {"type": text, "message": text, "traceback": text}
        jobs += [failed, hostile_job(text, upsampling(text, text, pairs=(text, 2)))]
    jobs += [profile(SCRIPT, vary="groups", groups=g, saved=1000 * g) for g in (1, 2)]
    jobs += [profile(f, adaptive=(f == "ddf", False)) for f in ("conv", "dwconv", SCRIPT)]
    for place, job in enumerate(jobs):
        folder = sweep / f"job{place}"
        folder.mkdir(parents=True)
        # Not by our own writer, which may have a say in it: as it would come from elsewhere.
        (folder / RESULT).write_text(json.dumps(job))
        (folder / "gradients.csv").write_text(CURVE.replace("trunk", SCRIPT))
        (folder / LAYERS).write_text(layers_csv(2).replace("blocks", SCRIPT))
    for place, text in enumerate((*TEXTS.values(), b"\xff\xfe".decode(errors="surrogateescape"))):
        if not {"/", "\0", "\ud800"} & set(text):
            (sweep / f"{place}{text}").mkdir()
    command = " ".join(TEXTS.values())
    runs = [{"command": command, "started": SCRIPT, "finished": SCRIPT}, {SCRIPT: SCRIPT}, 3]
    (sweep / "sweep.json").write_text(json.dumps({"runs": runs}))
    return sweep
