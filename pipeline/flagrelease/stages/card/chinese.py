"""Render the Chinese card: the same values as the English one, with Chinese text around them. Pure except for reading
the template.

Sentences of the record (reasons of verdicts, remarks on the image) stay as they are recorded, in English.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flagrelease.contract.accuracy_results import BenchmarkScore
from flagrelease.contract.units import size_text
from flagrelease.recipe.container import PORT
from flagrelease.stages.card import facts, render
from flagrelease.stages.card.files import TEMPLATE_ZH
from flagrelease.stages.card.markdown import Markdown, code, environment
from flagrelease.stages.card.operators_section import EFFECT_FIRST, EXCLUDED_FIRST
from flagrelease.stages.card.record import Record
from flagrelease.stages.card.render import METRIC_FIRST
from flagrelease.stages.card.speed_section import SPEED_FIRST

HEADINGS: Mapping[str, str] = {
    "Introduction": "简介",
    "Evaluation Results": "评测结果",
    "Benchmark Result": "基准评测",
    "User Guide": "使用指南",
    "Environment Setup": "环境配置",
    "Operation Steps": "操作步骤",
    "Service Invocation": "服务调用",
    "AnythingLLM Integration Guide": "AnythingLLM 接入指南",
    "Technical Overview": "技术概览",
    "Contributing": "贡献",
    "License": "许可证",
}
"""The headings that the lint looks for."""

LABELS: Mapping[str, str] = {
    METRIC_FIRST: "指标",
    SPEED_FIRST: "输入 / 输出词元数",
    EFFECT_FIRST: "启用的算子",
    EXCLUDED_FIRST: "未启用的算子",
    "Questions": "题数",
    "Repeats": "重复次数",
    "Difference": "差值",
    "90 % interval": "90 % 置信区间",
    "95 % interval": "95 % 置信区间",
    "99.5 % interval": "99.5 % 置信区间",
    "Margin": "非劣效界值",
    "Verdict": "结论",
    "At once": "并发数",
    "Ratio": "比值",
    "Goodput, requests/s": "有效吞吐, 请求/s",
    "Property": "属性",
    "Value": "值",
    "Context window": "上下文窗口",
    "Requests at once": "同时处理的请求数",
    "Weights": "权重",
    "Engine": "推理引擎",
    "Default length of an answer on this page": "本页示例的回答长度上限",
    "Languages": "语言",
    "Item": "项目",
    "Version": "版本",
    "Accelerator": "加速卡",
    "Operating system": "操作系统",
    "Kernel": "内核",
    "not applied": "未使用",
    "Setting": "设置项",
    "Sizes measured": "实测的尺寸数",
    "Certainly faster": "确定更快的尺寸数",
    "Share of the chip's limit": "达到芯片上限的比例",
    "Vendor's kernel": "厂商算子的比例",
    "Why": "原因",
    "Judged": "评测项",
    "Attempt": "次序",
    "Image": "镜像",
    "Profile": "评测配置",
    "Answers": "回答数",
    "Level": "显著性水平",
    "Tokens": "词元数",
    "Prompts": "提示数",
    "Same likeliest token": "最可能词元相同的比例",
    "KL per token, nats": "每词元 KL 散度, nats",
    "Cell": "单元",
    "Release tag": "发布标签",
    "Image size": "镜像大小",
    "Base image": "基础镜像",
    "Weights digest": "权重摘要",
    "Downloaded weights digest": "下载的权重摘要",
    "Served weights digest": "部署的权重摘要",
    "Smoke checks passed": "通过的冒烟检查",
    "Smoke checks skipped": "跳过的冒烟检查",
    "Evaluation profile": "评测配置",
    "Baseline": "基线",
    "Stage": "阶段",
    "Time": "耗时",
    "Bytes moved": "传输的字节数",
}
"""Cells of tables that are labels, not values."""

_TABLES = ("facts", "scores", "speed", "attempts", "tokens", "environment", "anythingllm", "provenance", "stages")


def render_card(record: Record, templates: Path) -> str:
    """The card in Chinese."""
    page = environment(templates).get_template(TEMPLATE_ZH).render(view(record))
    return facts.as_published(page.rstrip("\n") + "\n", record)


def view(record: Record) -> dict[str, Any]:
    """The template's values: those of the English card, with Chinese labels in tables and Chinese sentences."""
    values = render.view(record)
    for name in _TABLES:
        values[name] = _table(values[name])
    if values["operators"]:
        operators = values["operators"]
        tables = {name: _table(operators[name]) for name in ("in_effect", "left_out")}
        values["operators"] = {**operators, **tables}
    shown = render.shown_reasons(record)
    return values | {
        "notes": {
            row.benchmark: _note(row, shown, asked=record.accuracy.questions_asked > 0)
            for row in record.accuracy.benchmarks
        },
        "hardware": _hardware(record),
        "limits": _limits(record),
    }


def _table(table: Markdown | None) -> Markdown | None:
    """The table with Chinese labels; cells that are not labels are values and stay."""
    if table is None:
        return None
    lines = []
    for line in table.split("\n"):
        cells = line.removeprefix("| ").removesuffix(" |").split(" | ")
        lines.append(f"| {' | '.join(LABELS.get(cell, cell) for cell in cells)} |")
    return Markdown("\n".join(lines))


def _note(row: BenchmarkScore, shown: str, *, asked: bool) -> str:
    """The notes of `render.score_note`, in Chinese; what the record says in words is quoted."""
    parts = [f"部分题目 ({row.partial})"] if row.partial else []
    if course := row.course:
        stopped = "提前停止, " if course.early else ""
        parts.append(
            f"{stopped}每侧至多 {course.planned:,} 个回答中的 {course.answers:,} 个, 第 {course.look} 次分析 (共 "
            f"{course.looks} 次): {course.why}"
        )
    if asked:
        parts.append(f"{row.errors} 个请求失败, {row.truncated} 个回答被截断")
    if row.flips:
        parts.append(f"{row.flips[0]} 题由错变对, {row.flips[1]} 题由对变错")
    if noise := row.noise:
        low, high = map(render.signed, noise.interval90)
        parts.append(
            f"基线与自身比较, 各重复 {noise.repeats:g} 次: 差值 {render.signed(noise.difference)} [{low}, {high}], "
            f"{100 * noise.flip_rate:.1f} % 的题目结果翻转"
        )
    return "; ".join(parts if row.reason and row.reason in shown else (*parts, row.reason))


def _hardware(record: Record) -> str:
    weights, fetched = (sum(file.size for file in files) for files in (record.weights.files, record.weights.fetched))
    disk = f"权重 {size_text(fetched)}"
    if record.weights.unpacked is not None:
        disk += f", 解包后的权重 {size_text(weights)}"
    if record.image.size and record.image.runner == "docker":
        disk += f", 镜像 {size_text(record.image.size)}"
    serve = record.model.serve
    name, several = record.chip.device.name, serve.devices > 1
    devices = f"{serve.devices} × {name} ({facts.parallel(serve.ranks)})" if several else f"一台 {name}"
    return (
        f"{devices}。磁盘: {disk}。{'各设备内存合计' if several else '设备内存'}: 权重的 {size_text(weights)}, 以及 "
        f"{serve.concurrency} 个请求、每个至多 {serve.max_model_len:,} 个词元的缓存"
    )


def _limits(record: Record) -> list[Markdown]:
    benchmarks = ", ".join(sorted({code(row.metric) for row in record.accuracy.benchmarks}))
    port = record.model.serve.port
    if record.chip.container.network == "host":
        local = f"若只需本机访问, 启动时加 {code('--env=FLAGOS_HOST=127.0.0.1')}"
    else:
        local = f"若只需本机访问, 将端口发布为 {code(f'127.0.0.1:{port}:{PORT}')}"
    return [
        Markdown(f"评测覆盖 {benchmarks} 及上述采样参数; 其他任务、语言和采样参数未经测量。"),
        Markdown("未评测真实性、安全性和偏见; 模型的用途见其主页。"),
        Markdown(f"服务不要求密钥, 并监听主机所有地址的 {port} 端口。{local}, 并在其前面放置带认证的代理。"),
    ]
