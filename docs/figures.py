"""Tables of README and docs, made from the stored results; cog puts them in place.

cog -r README.md docs/*.md      # rewrites the blocks
cog --check README.md docs/*.md # what the tests do
"""

import ast
import json
from pathlib import Path
from textwrap import dedent, fill
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MODEL = "sharpmask-pyramid-nano"


def result(name: str) -> dict[str, Any]:
    """A stored result."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(file: str, name: str) -> str:
    """A function or method of the package, without its docstring, for the page of the method."""
    source = (ROOT / "src" / "sharpmask" / file).read_text()
    node: Any = ast.parse(source)
    for part in name.split("."):
        node = next(child for child in node.body if getattr(child, "name", "") == part)
    told = node.body[0]  # the docstring
    lines = source.splitlines()
    kept = lines[node.lineno - 1 : told.lineno - 1] + lines[told.end_lineno : node.end_lineno]
    note = "<!-- not run: a part of the package -->"
    return f"{note}\n```python\n{dedent(chr(10).join(kept))}\n```"


def recall() -> str:
    """AR of the shipped models on the validation photos, in the paper's layout."""
    header = ["model", "box AR@10", "@100", "@1000", "mask AR@10", "@100", "@1000", "AUC"]
    header += ["S", "M", "L", "boundary IoU"]
    rows = []
    for path in sorted(RESULTS.glob("evaluation_*.json")):
        content = json.loads(path.read_text())
        boxes, masks = content["boxes"], content["masks"]
        figures = [boxes[f"AR@{count}"] for count in (10, 100, 1000)]
        figures += [masks[f"AR@{count}"] for count in (10, 100, 1000)]
        figures += [masks[key] for key in ("AUC", "AR_S", "AR_M", "AR_L")]
        figures += [content["boundary"]["boundary_iou"]]
        rows.append([f"`{content['method']}`", *(f"{100 * value:.1f}" for value in figures)])
    return table(header, rows)


def summary() -> str:
    """README's figures: what the models find, and how long a photo takes them."""
    times: dict[tuple[str, str], float] = {}
    for row in result("photo_time")["rows"]:
        if not row["engine"].endswith("bf16"):
            key = row["model"], row["scales"]
            times[key] = min(row["median_s"], times.get(key, row["median_s"]))
    rows = []
    for name, scales in (
        ("sharpmask-pyramid-nano", "default"),
        ("sharpmask-pyramid-nano", "fast"),
        ("sharpmask-nano", "default"),
    ):
        kind = "" if scales == "default" else f"_{scales}"
        content = result(f"evaluation_{name}{kind}")
        boxes, masks = content["boxes"], content["masks"]
        values = [boxes["AR@100"], *(masks[f"AR@{count}"] for count in (10, 100, 1000))]
        cells = [f"{100 * value:.1f}" for value in [*values, masks["AR_S"]]]
        rows.append([f"`{content['method']}`", *cells, f"{times[name, scales]:.2f} s"])
    return table(["model", "box AR@100", "mask AR@10", "@100", "@1000", "small", "time"], rows)


PUBLISHED = [
    ["SharpMask, 2016", "-", "36.7 / 27.6 [1]", "-", "-", "-", "-"],
    ["SAM, ViT-B", "-", "39.6 / - [2]", "49.4 [3]", "375 [3]", "Apache-2.0", "-"],
    ["MobileSAM", "-", "-", "25.4 [3]", "40.7 [3]", "Apache-2.0", "no [3]"],
    ["FastSAM (of YOLOv8x)", "-", "47.3 / - [2]", "-", "-", "AGPL-3.0 parts", "-"],
    ["FastSAM-s", "-", "-", "0.056 [3]", "23.7 [3]", "AGPL-3.0 parts", "-"],
    ["YOLO11n-seg: 80 kinds", "-", "-", "0.030 [3]", "5.9 [3]", "AGPL-3.0", "yes"],
]
"""What others published; the sources stand below the table."""


def comparison() -> str:
    """What one would otherwise use: on the same photos in the same run, or as published."""
    content = result("peers")
    peers = content["rows"]

    def measured(name: str) -> tuple[str, str]:
        row = peers[name]
        recalls = [kind["AR@100"] if kind else None for kind in (row["boxes"], row["masks"])]
        both = " / ".join("-" if value is None else f"{100 * value:.1f}" for value in recalls)
        return both, f"{row['median_cpu_s']:.2f}"

    model = ROOT / "src" / "sharpmask" / "weights" / f"{MODEL}.safetensors"
    size = f"{model.stat().st_size / 1e6:.1f}"
    recall, seconds = measured("sharpmask, 100 proposals")
    rows = [["**sharpmask**", recall, "-", seconds, size, "Apache-2.0", "yes"]]
    recall, seconds = measured("selective search")
    published = "16.3 / 9.5 [1]"
    rows.append(["selective search", recall, published, seconds, "-", "Apache-2.0", "no need"])
    recall, seconds = measured("Felzenszwalb")
    rows.append(["Felzenszwalb's segments", recall, "-", seconds, "-", "BSD-3", "no need"])
    header = ["method", f"{content['photos']} photos", "COCO", "seconds", "MB", "licence"]
    return table([*header, "trains on a CPU"], [*rows, *PUBLISHED])


def peers() -> str:
    """All that ``benchmarks/peers.py`` measured."""
    rows = []
    for name, row in result("peers")["rows"].items():
        cells = [f"{100 * row['boxes'][f'AR@{count}']:.1f}" for count in (10, 100, 1000)]
        for count in (10, 100, 1000):
            masks = row["masks"]
            cells.append(f"{100 * masks[f'AR@{count}']:.1f}" if masks else "-")
        rows.append([name, *cells, f"{row['median_s']:.2f} s", f"{row['median_cpu_s']:.2f} s"])
    header = ["method", "box AR@10", "@100", "@1000", "mask AR@10", "@100", "@1000"]
    return table([*header, "time", "processor time"], rows)


def held_out() -> str:
    """The same on the photos on which nothing was chosen."""
    rows = []
    for path in sorted(RESULTS.glob("evaluation_*.json")):
        content = json.loads(path.read_text())
        figures = content["settings"]["held_out"]
        values = [figures["mask_AR"][f"AR@{count}"] for count in (10, 100, 1000)]
        values += [figures["mask_AR"][key] for key in ("AUC", "AR_S", "AR_M", "AR_L")]
        values += [figures["boundary"]["boundary_iou"]]
        cells = [f"{100 * value:.1f}" for value in values]
        rows.append([f"`{content['method']}`", str(figures["photos"]), *cells])
    header = ["model", "photos", "mask AR@10", "@100", "@1000", "AUC", "S", "M", "L"]
    return table([*header, "boundary IoU"], rows)


def detection() -> str:
    """AP of detectors by their proposals."""
    content = result("detection")
    names = ", ".join(content["categories"])
    shipped = content["shipped"]
    label = f"`detector-coco-nano`, {shipped['categories']} categories, ours"
    methods = {**content["figures"], label: {str(content["proposals_in_training"]): shipped}}
    return (
        f"{content['photos']} training photos; categories with at least 50 objects in them: "
        f"{names}.\n\n{precisions(methods, 'proposals')}"
    )


def detection_by_examples() -> str:
    """AP of detectors by the objects that they learned from."""
    return precisions(result("detection")["examples"], "examples")


def detection_searched() -> str:
    """AP of the same detectors on our proposals and on selective search's."""
    content = result("detection")["searched"]
    return f"On {content['photos']} photos:\n\n{precisions(content['figures'], 'proposals')}"


def precisions(figures: dict[str, dict[str, dict[str, float]]], counted: str) -> str:
    """AP of methods by the number of something."""
    rows = []
    for method, by_count in figures.items():
        for count, values in by_count.items():
            names = ("boxes_AP", "boxes_AP50", "masks_AP", "masks_AP50")
            cells = [f"{100 * values[name]:.1f}" if name in values else "-" for name in names]
            rows.append([method, count, *cells])
    return table(["detector", counted, "box AP", "AP50", "mask AP", "AP50"], rows)


def finetuned() -> str:
    """AR of the default model before and after tuning, for each kind of photos."""
    rows = []
    for path in sorted(RESULTS.glob("finetune_*.json")):
        content = json.loads(path.read_text())
        ceilings = [100 * value for value in content["ceiling"].values()]
        for found in content["measures"]:
            octaves = ", ".join(f"{octave:g}" for octave in found["readings"])
            recalls = [f"{100 * value:.1f}" for value in found["recall"].values()]
            values = [
                f"{recall} of {ceiling:.0f}"
                for recall, ceiling in zip(recalls, ceilings, strict=True)
            ]
            box = f"{100 * found['boxes']:.1f}"
            name = found["name"]
            name += f" {content['steps']} steps" if name == "after" else ""
            rows.append([content["name"], name, octaves, box, *values[:2]])
    return table(["photos", "model", "octaves", "box AR@100", "mask AR@10", "@100"], rows)


def patches() -> str:
    """Per-patch figures of the shipped models."""
    rows = []
    for name, figures in result("patches")["models"].items():
        values = [figures[key] for key in ("mean_iou", "median_iou", "iou_50", "iou_70")]
        rows.append([f"`{name}`", *(f"{100 * value:.1f}" for value in values)])
        rows[-1].append(f"{100 * figures['score_auc']:.1f}")
    header = ["model", "mean IoU", "median IoU", "IoU > .5", "IoU > .7", "score AUC"]
    return table(header, rows)


def claims() -> str:
    """The papers' comparisons at small scale."""
    header = ["model", "parameters", "GFLOP", "time", "patch IoU"]
    header += ["box AR@10", "@100", "@1000", "mask AR@10", "@100", "@1000"]
    rows = []
    for name, row in result("paper_claims")["rows"].items():
        cells = [f"{row['parameters'] / 1e6:.1f} M", f"{row['gflop']:.0f}"]
        cells.append(f"{row['relative_time']:.2f}")
        if "mask_AR" in row:
            cells.append(f"{100 * row['patch_iou']:.1f}" if "patch_iou" in row else "-")
            for kind in ("box_AR", "mask_AR"):
                cells += [f"{100 * row[kind][f'AR@{count}']:.1f}" for count in (10, 100, 1000)]
        else:
            cells += ["-"] * 7
        rows.append([name, *cells])
    return table(header, rows)


def claims_forms() -> str:
    """The papers' forms and the pyramid: same trunk, photos and processor time."""
    kinds = [*(f"AR@{count}" for count in (10, 100, 1000)), "AR_S", "AR_M", "AR_L"]
    rows = []
    for form in ("original head", "head C", "SharpMask, k = 32", "feature pyramid"):
        row = result("paper_claims")["rows"][f"YOLOX-Nano, {form}"]
        cost = [f"{row['gflop']:.0f}", f"{row['relative_time']:.2f}"]
        recall = [f"{100 * row['mask_AR'][kind]:.1f}" for kind in kinds]
        rows.append([form, *cost, *recall, f"{100 * row['boundary_iou']:.1f}"])
    header = ["YOLOX-Nano with", "GFLOP", "time", "mask AR@10", "@100", "@1000", "S", "M", "L"]
    return table([*header, "boundary IoU"], rows)


def claims_config() -> str:
    """The budget of the comparisons."""
    config = result("paper_claims")["config"]
    return (
        f"Budget: {config['steps_of_each_stage']} steps of {config['scenes_in_a_step']} scenes for "
        f"each stage; recall on {config['photos']} photos of {config['val']}."
    )


def headline_ratios() -> str:
    """The review's two headline ratios, here and in the paper."""
    rows = result("paper_claims")["rows"]
    # All trained rows have one trunk.
    trained = {name.partition(", ")[2]: row for name, row in rows.items() if "mask_AR" in row}
    time = rows["ResNet-50, SharpMask, k = 32"]["relative_time"]
    sharp, original = (
        trained[name]["mask_AR"]["AR@100"] for name in ("SharpMask, k = 32", "original head")
    )
    recall = sharp / original
    released = [
        result(f"evaluation_{name}-nano")["masks"]["AR@100"] for name in ("sharpmask", "deepmask")
    ]
    return table(
        ["ratio of SharpMask to DeepMask original", "here", "reported in the paper"],
        [
            ["time per image", f"{time:.2f}", f".76 s / 1.59 s = {0.76 / 1.59:.2f}"],
            ["mask AR@100", f"{recall:.2f}", f"27.6 / 24.5 = {27.6 / 24.5:.2f}"],
            [
                "mask AR@100, shipped models: SharpMask to its own DeepMask",
                f"{released[0] / released[1]:.2f}",
                f"27.6 / 25.8 = {27.6 / 25.8:.2f}",
            ],
        ],
    )


def ranking() -> str:
    """The candidates for ranking, threshold and suppression."""
    settings = ("mask_threshold", "quality_exponent", "suppression", "num_candidates")
    keys = ("AR@10", "AR@100", "AR@1000", "AR_S")
    rows = []
    for row in result("ranking")["rows"]:
        cells = [str(row.get(name, 1000)) for name in settings]
        rows.append([*cells, *(f"{100 * row['mask_AR'][key]:.1f}" for key in keys)])
    header = ["threshold", "quality exponent", "suppression", "masks decoded"]
    return table([*header, "mask AR@10", "@100", "@1000", "S"], rows)


def prompts() -> str:
    """What boxes and clicks are answered with, and in which time."""
    content = result("prompts")
    sizes = content["objects"]
    names = {"box": "true box", "click": "one click", "click, best of 3": "click, best of 3"}
    header = ["mask IoU", *(f"{size} ({count})" for size, count in sizes.items()), "processor time"]
    times = content["median_cpu_ms"]
    rows = [
        [
            name,
            *(f"{content['mask_iou'][key][size]:.3f}" for size in sizes),
            f"{times[key.split(',')[0]]:.0f} ms",
        ]
        for key, name in names.items()
    ]
    return (
        f"{content['photos']} photos of {content['annotations']}, {content['engine']}, one core; "
        f"reading a photo takes {times['reading']:.0f} ms:\n\n" + table(header, rows)
    )


def serve_load() -> str:
    """What health of the server takes under load, beside a server with nothing to do."""
    content = result("serve_load")
    rows = [
        [name, f"{each['median']:.0f} ms", f"{each['p99']:.0f} ms", f"{each['worst']:.0f} ms"]
        for name, each in content["health_ms"].items()
    ]
    memory = content["memory_mb"]
    return (
        table(["`GET /health` of a server that is", "median", "99 of 100", "worst"], rows)
        + f"\n\n{content['config']}: {content['answers']} answers.\n"
        f"Memory, from a third of the way on: {memory['first']:.0f} MB, "
        f"at most {memory['most']:.0f} MB."
    )


def photo_times() -> str:
    """Time of a photo for each model and engine, beside a matrix product of the same run."""
    content = result("photo_time")
    rows = [
        [
            f"`{row['model']}`" + ("" if row["scales"] == "default" else f", {row['scales']}"),
            f"`{row['engine']}`",
            f"{row['median_s']:.2f} s",
            f"{row['of_product']:.2f}",
        ]
        for row in content["rows"]
    ]
    header = ["model", "engine", "time of a photo", "of a 4096^3 product's"]
    return table(header, rows)


def card_list(name: str) -> str:
    """What a shipped model says of itself."""
    from sharpmask.models.pretrained import load, read_metadata
    from sharpmask.models.sources import resolve

    metadata = read_metadata(name)
    size = resolve(name).stat().st_size
    parameters = sum(p.numel() for p in load(name).parameters())
    data = metadata["data"]
    items = {
        "Size": f"{parameters:,} parameters, {size / 1e6:.1f} MB (float16)",
        "Trained on": f"{data['source']}; {data['objects']} objects in {data['photos']} photos",
        "Architecture": _settings(metadata["architecture"]),
        "Recipe": _settings(metadata["recipe"]),
        "Licence": metadata["licence"],
    }
    return "\n".join(
        fill(f"- **{key}**: {text}", 98, subsequent_indent="  ", break_on_hyphens=False)
        for key, text in items.items()
    )


def _settings(of: dict[str, Any]) -> str:
    return ", ".join(f"`{key}={json.dumps(value)}`" for key, value in of.items())


def speed() -> str:
    """Dense pass, refinement, memory, training speed."""
    dense, memory, training = result("dense_pass"), result("memory"), result("training_speed")
    rows = [
        [
            "dense pass in torch, ResNet-50, 640x480, 7 scales: share of this machine's sgemm rate",
            f"{dense['dense_share_of_sgemm']:.2f}",
            "at least .80",
        ],
        [
            "refinement of 500 windows in torch: share of the dense pass",
            f"{100 * dense['refinement_share_of_dense']:.1f} %",
            "below 15 %",
        ],
        [
            "peak memory, 1000 proposals on 12 megapixels",
            f"{memory['peak_gb']:.2f} GB",
            "below 1.5 GB",
        ],
    ]
    for name, row in training["runs"].items():
        rows.append(
            [
                f"training, {name}: share of time that waits for data",
                f"{100 * row['waiting_for_data']:.1f} % at {row['samples_per_s']:.1f} patches/s",
                "below 5 %",
            ]
        )
    return table(["what", "measured", "target"], rows)


def targets() -> str:
    """The figures of speed against what they should be."""
    content, tiles = result("speed"), result("tiles")
    relative, recall = content["relative_to_product"], content["mask_AR"]
    resnet, folder = content["resnet50"], content["folder"]
    cold = content["cold_start_s"]["openvino-bf16"]
    kinds = {name: f"OpenVINO, {name}" for name in ("bfloat16", "int8")}
    cost = {
        name: f"{100 * (1 - recall[key]['AR@100'] / recall['OpenVINO']['AR@100']):.1f} %"
        if recall
        else "-"
        for name, key in kinds.items()
    }
    rows = [
        *(
            [
                f"`{name.replace(',', '`,', 1)}, 100 proposals: time / time of a 4096^3 product",
                f"{share:.2f}",
                "at most .40" if name.endswith("ONNX Runtime") else "-",
            ]
            for name, share in relative.items()
            if name.startswith("sharpmask-pyramid-nano")
        ),
        [
            f"`{content['config'].partition(',')[0]}`, 100 proposals: time / time of a 4096^3 "
            "product, best engine",
            f"{relative['OpenVINO, bfloat16']:.2f}",
            "at most .87",
        ],
        ["the same in int8", f"{relative['OpenVINO, int8']:.2f}", "at most .87"],
        ["the same in float32", f"{relative['OpenVINO']:.2f}", "-"],
        [
            "int8: times faster than float32",
            f"{relative['OpenVINO'] / relative['OpenVINO, int8']:.2f}",
            "at least 1.5",
        ],
        *(
            [f"{name}: loss of mask AR@100, relative", loss, "at most 3 %"]
            for name, loss in cost.items()
        ),
        [
            "ResNet-50, 500 proposals: whole pipeline / dense part",
            f"{resnet['pipeline_to_dense']:.2f}",
            "at most 1.1",
        ],
        [
            "ResNet-50, dense part: share of this machine's sgemm rate",
            f"{resnet['dense_share_of_sgemm']:.2f}",
            "at least 1.0",
        ],
        [
            f"folder of {folder['photos']} photos: time of one command alone / time of each",
            f"{cold / folder['s_per_photo']:.1f}",
            "at least 1.3",
        ],
        [
            "folder: throughput / that of photos one by one in a process that runs already",
            f"{folder['throughput_ratio']:.2f}",
            "at least 1.3",
        ],
        [
            "memory growth over the second half of the folder",
            f"{folder['memory_growth_mb']:.0f} MB",
            "none",
        ],
        [
            "`sharpmask propose` from a cold start to the written result",
            f"{cold:.1f} s",
            "below 3 s",
        ],
        [
            "peak memory, 1000 proposals on 12 megapixels, torch",
            f"{result('memory')['peak_gb']:.2f} GB",
            "-",
        ],
        [
            f"{tiles['side']} x {tiles['side']} pixels in tiles: memory besides the model's",
            f"{tiles['peak_gb'] - tiles['memory_after_one_photo_gb']:.2f} GB",
            "at most 1.5 GB",
        ],
        [
            "one pass for all scales (a feature pyramid) could make it faster by at most",
            f"{content['one_pass']['speedup_at_most']:.2f}",
            "worth trying from 2.0",
        ],
    ]
    return table(["what", "measured", "target"], rows)


def installs() -> str:
    """What the engines weigh and how long a command takes with them."""
    content = result("speed")
    packages = {"openvino-bf16": "openvino", "onnx": "onnxruntime", "torch": "torch"}
    rows = [
        [f"`{name}`", f"{content['installed_mb'][package]:.0f} MB", f"{seconds:.1f} s"]
        for name, package in packages.items()
        if (seconds := content["cold_start_s"][name])
    ]
    return table(["engine", "installed", "`sharpmask propose` on one photo"], rows)


def steps() -> str:
    """Where the time of a photo goes."""
    spent = result("speed")["steps_s"]
    total = sum(spent.values())
    rows = [[name, f"{100 * seconds / total:.0f} %"] for name, seconds in spent.items()]
    return table(["step", "share of a photo's time (OpenVINO, bfloat16)"], rows)


def batch_measured() -> str:
    """What was measured of large runs."""
    content = result("batch")
    service, driver, requests = content["service"], content["driver"], content["requests"]
    scheduling, throughput = content["scheduling"], content["throughput"]
    beside = content["side_by_side"]
    reads, writes = requests["per_photo"], requests["per_part"]
    rows = [
        [
            f"{throughput['config']}: folder run / run on local Ray, time",
            f"{throughput['folder_s']:.0f} s / {throughput['ray_s']:.0f} s = "
            f"{throughput['ratio']:.2f}",
        ],
        ["the same without the starts", f"{throughput['ratio_without_start']:.2f}"],
        [
            "both at the same time, photos in the same minutes: Ray / folder run",
            f"{beside['photos']['ray']} / {beside['photos']['folder']} = {beside['ratio']:.2f}",
        ],
        [f"processor time of a photo ({service['config']})", f"{service['median_cpu_s']:.2f} s"],
        ["a photo's row, zstd", f"{service['row_bytes'] / 1e3:.0f} kB"],
        ["that photo's JPEG", f"{service['photo_bytes'] / 1e3:.0f} kB"],
        ["requests for a photo", _requests(reads)],
        ["requests for a part (is it there, write)", _requests(writes)],
        ["starting Ray on this machine", f"{scheduling['cluster_start_s']:.0f} s"],
        ["from there to the first part: processes start", f"{scheduling['first_part_s']:.0f} s"],
        ["the driver's time for a part", f"{1e3 * scheduling['s_per_part']:.0f} ms"],
        [
            "the driver's memory for a planned photo",
            f"{driver['memory_bytes_per_photo']:.0f} bytes",
        ],
        ["the plan's file, for a photo", f"{driver['plan_bytes_per_photo']:.0f} bytes"],
        [
            f"planning {driver['photos']:,} photos",
            f"{driver['photos'] * driver['s_per_photo']:.0f} s",
        ],
    ]
    return table(["what", "measured"], rows)


def _requests(kinds: dict[str, float]) -> str:
    return ", ".join(f"{count:.3g} {kind}" for kind, count in kinds.items() if count)


def batch_simulated() -> str:
    """Hours and costs of large runs."""
    rows = [
        [
            f"{row['photos']:,}",
            f"{row['workers']:,}",
            f"{row['part_size']:,}",
            f"{row['hours']:,.1f}",
            f"{100 * row['busy']:.0f} %",
            f"{row['usd_cores']:,.0f}",
            f"{row['usd_requests']:,.0f}",
            f"{row['usd_store_month']:,.2f}",
        ]
        for row in result("batch_simulation")["rows"]
    ]
    header = ["photos", "cores", "photos a part", "hours", "cores busy", "cores, $", "requests, $"]
    return table([*header, "result kept a month, $"], rows)


def batch_totals() -> str:
    """What a large run reads and writes, however many cores there are."""
    seen = {}
    for row in result("batch_simulation")["rows"]:
        if row["part_size"] != 256:
            continue
        seen[row["photos"]] = [
            f"{row['photos']:,}",
            f"{row['parts']:,}",
            f"{row['stored_bytes'] / 1e12:,.3g} TB",
            f"{row['reads']:,.0f}",
            f"{row['writes']:,.0f}",
        ]
    header = ["photos", "parts", "written", "requests to read", "requests to write"]
    return table(header, list(seen.values()))


def batch_limits() -> str:
    """Where one driver ends."""
    content = result("batch_simulation")
    memory = ", ".join(
        f"{size / 1e9:,.1f} GB for {int(photos):,} photos"
        for photos, size in content["driver_bytes"].items()
    )
    return (
        f"One driver feeds {content['workers_that_one_driver_feeds']:,.0f} cores: it takes "
        f"{1e3 * content['driver_s_per_part']:.0f} ms for a part, a core "
        f"{content['part_s']:.0f} s. Its memory: {memory}."
    )


def batch_assumed() -> str:
    """What the simulation takes for granted."""
    assumed = result("batch_simulation")["assumed"]
    rows = [[f"`{name}`", f"{value:g}"] for name, value in assumed.items()]
    return table(["assumed", "value"], rows)


def commands() -> str:
    """Every command with its arguments and options, as the program itself tells them."""
    from typer.main import get_command

    from sharpmask.cli.main import app

    lines: list[str] = []
    program: Any = get_command(app)
    for name in program.list_commands(None):
        lines += _command(program.get_command(None, name), f"sharpmask {name}")
    return "\n".join(lines).rstrip()


def _command(command: Any, path: str) -> list[str]:
    """A command, or a group and all its commands."""
    lines = [f"## `{path}`", "", *_paragraphs(command.help or ""), ""]
    if hasattr(command, "list_commands"):
        for name in command.list_commands(None):
            lines += _command(command.get_command(None, name), f"{path} {name}")
        return lines
    shown = [param for param in command.params if param.name != "help" and not param.hidden]
    arguments = [param for param in shown if param.param_type_name == "argument"]
    usage = " ".join(f"{_name(param)}{'...' if param.nargs < 0 else ''}" for param in arguments)
    lines += ["```text", f"{path} [OPTIONS] {usage}".rstrip(), "```", ""]
    for param in shown:
        lines += _parameter(param)
    return lines


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _paragraphs(text: str) -> list[str]:
    parts = [" ".join(part.split()) for part in text.split("\n\n")]
    return "\n\n".join(fill(part, 98, break_on_hyphens=False) for part in parts).split("\n")


def _parameter(param: Any) -> list[str]:
    """An argument or option, its meaning, and what it is if it is not given."""
    is_argument = param.param_type_name == "argument"
    names = [_name(param)] if is_argument else [*param.opts, *param.secondary_opts]
    told = " ".join((param.help or "").split())
    if param.required:
        told += " *Required.*"
    elif isinstance(param.default, bool):
        told += f" Default: `{names[0 if param.default else 1]}`." if param.secondary_opts else ""
    elif isinstance(param.default, str | int | float | Path) and "Default:" not in told:
        told += f" Default: `{getattr(param.default, 'value', param.default)}`."
    meaning = fill(
        told, 98, initial_indent=":   ", subsequent_indent="    ", break_on_hyphens=False
    )
    return [" / ".join(f"`{name}`" for name in names), meaning, ""]
